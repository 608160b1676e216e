"""Ids on their way in and rows on their way out: NumPy or torch, and copies only where they are needed.

torch is never imported here: a caller who holds a tensor has imported it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from . import _native

#: Types that torch 2.2 does not have.
_NEW_IN_TORCH = ("uint16", "uint32", "uint64")

_NATIVE_IDS = (np.dtype(np.uint64), np.dtype(np.int64))


def as_ids(ids: Any) -> tuple[np.ndarray, bool]:
    """Turn the ids of a caller into an array that the native client reads in place.

    Parameters
    ----------
    ids : array_like of int or torch.Tensor
        One-dimensional.

    Returns
    -------
    array : numpy.ndarray
        Contiguous ``uint64`` or ``int64``; the caller's own memory if that is so already.
    is_tensor : bool
        Whether ``ids`` is a torch tensor.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        If there is not exactly one dimension.
    """
    torch = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(ids, getattr(torch, "Tensor", ()))
    if is_tensor:
        if ids.is_floating_point() or ids.is_complex():
            raise TypeError(f"ids must be integers, not {ids.dtype}")
        ids = ids.detach().cpu().numpy()
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"ids must have one dimension, not {array.ndim} (their shape is {array.shape})")
    if array.dtype.kind not in "iu":
        if array.size > 0 or isinstance(ids, np.ndarray):
            raise TypeError(f"ids must be integers, not {array.dtype}")
        # An empty list has no type of its own.
        array = array.astype(np.uint64)
    if array.dtype not in _NATIVE_IDS or not array.dtype.isnative:
        array = array.astype(np.uint64 if array.dtype.kind == "u" else np.int64)
    return np.require(array, requirements=("C", "A")), is_tensor


def as_ids_of(ids: np.ndarray, like: np.ndarray | None, is_tensor: bool) -> Any:
    """Turn translated ids into what the caller gave.

    Parameters
    ----------
    ids : numpy.ndarray
        ``uint64``, from the native client.
    like : numpy.ndarray, optional
        What :func:`as_ids` made of the caller's ids; ``uint64`` stays so.
    is_tensor : bool
        Whether the caller gave a tensor.

    Returns
    -------
    numpy.ndarray or torch.Tensor
        ``int64``, by which arrays and tensors can be indexed, or ``uint64``.
    """
    if is_tensor:
        return sys.modules["torch"].from_numpy(ids.view(np.int64))
    return ids if like is not None and like.dtype == np.uint64 and like.size > 0 else ids.view(np.int64)


def as_row_bytes(rows: Any, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    """Turn new rows of a caller into the bytes that the native client sends.

    Parameters
    ----------
    rows : numpy.ndarray or torch.Tensor
        Of the table's element type; for ``bf16`` a tensor of ``torch.bfloat16`` or the bits as ``uint16``.
    shape : tuple of int
        What they must have: the number of rows, then the shape of one.
    dtype : numpy.dtype
        The element type as NumPy knows it.
    name : str
        The table, for errors.

    Returns
    -------
    numpy.ndarray
        One-dimensional ``uint8``, contiguous; the caller's own memory if the rows are contiguous.

    Raises
    ------
    TypeError
        If the elements are of another type. They are never converted: nobody would notice the rounding.
    ValueError
        If the shape is another.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(rows, getattr(torch, "Tensor", ())):
        rows = rows.detach().cpu()
        if rows.dtype == torch.bfloat16:
            rows = rows.contiguous().view(torch.int16).numpy().view(np.uint16)
        else:
            rows = rows.numpy()
    array = np.asarray(rows)
    if array.dtype != dtype:
        raise TypeError(f"table {name!r} has rows of {dtype}, not of {array.dtype}: convert them first")
    if array.shape != shape:
        raise ValueError(f"rows have shape {array.shape}; for these ids of table {name!r} it must be {shape}")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def as_rows(rows: _native.Rows, as_tensor: bool) -> Any:
    """Wrap rows in an array or a tensor over the memory that they were gathered into.

    Parameters
    ----------
    rows : rudder._native.Rows
        What the native client answered; the result keeps it alive.
    as_tensor : bool
        Whether the caller wants a tensor.

    Returns
    -------
    numpy.ndarray or torch.Tensor
        ``[n, *shape]``, writable.
    """
    array = np.asarray(rows)
    return tensor_of(array, rows.dtype) if as_tensor else array


def tensor_of(array: np.ndarray, dtype: str) -> Any:
    """A tensor over the memory of rows; torch must have been imported.

    Parameters
    ----------
    array : numpy.ndarray
        The rows; the tensor keeps it alive.
    dtype : str
        Their element type, by its name in the dataset.

    Returns
    -------
    torch.Tensor

    Raises
    ------
    TypeError
        If this torch has no such type. It is never replaced by another.
    """
    torch = sys.modules["torch"]
    if dtype == "bf16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if array.dtype.name in _NEW_IN_TORCH and not hasattr(torch, array.dtype.name):
        raise TypeError(
            f"rows of {dtype} are torch.{array.dtype.name}, which torch 2.3 brought, and this is torch {torch.__version__}: "
            "ask with a NumPy array of ids and convert what comes, or update torch"
        )
    return torch.from_numpy(array)
