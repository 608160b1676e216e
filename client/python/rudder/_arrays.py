"""Ids on their way in and rows on their way out: NumPy or torch, and copies only where they are needed.

torch is never imported here: a caller who holds a tensor has imported it.
"""

from __future__ import annotations

import sys
from typing import Any, Union, overload

import numpy as np

from ._tables import TableInfo, same_dtype

__all__ = ["Ids", "as_ids", "as_ids_of", "as_row_bytes", "as_rows", "check_out", "fill", "is_tensor_object", "tensor_of", "written"]

#: Type characters of the ids that the native client reads in place: 32 and 64 bits, signed and unsigned.
_NATIVE_IDS = frozenset("iIlLqQ")

#: Element types that torch 2.2 does not have.
_NEW_IN_TORCH = frozenset(("u16", "u32", "u64"))

#: What :func:`as_ids` answers: an array, or a range that nobody has written out yet.
Ids = Union[np.ndarray, range]


def is_tensor_object(value: Any) -> bool:
    """Whether a value is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


@overload
def as_ids(ids: Any) -> tuple[np.ndarray, bool]: ...


@overload
def as_ids(ids: Any, info: TableInfo | None) -> tuple[Ids, bool]: ...


def as_ids(ids: Any, info: TableInfo | None = None) -> tuple[Ids, bool]:
    """Turn the ids of a caller into an array that the native client reads in place.

    Parameters
    ----------
    ids : array_like of int or bool, torch.Tensor, slice, range or None
        One-dimensional. A mask has one element for each row of the table; ``None`` means all rows.
    info : TableInfo, optional
        The table, for masks, slices and ``None``. Without it they are refused.

    Returns
    -------
    ids : numpy.ndarray or range
        Contiguous integers of 32 or 64 bits; the caller's own memory if that is so already. With a table, a range for a
        slice, a range and ``None``.
    is_tensor : bool
        Whether ``ids`` is a torch tensor.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        If there is not exactly one dimension, or a mask has another length than the table.
    """
    array, is_tensor = ids, False
    if type(ids) is not np.ndarray:
        if type(ids) is list or not is_tensor_object(ids):
            if ids is None or isinstance(ids, (slice, range)):
                chosen = _range(ids, info)
                return written(chosen) if info is None else chosen, False
            array = np.asarray(ids)
        else:
            if ids.is_floating_point() or ids.is_complex():
                raise TypeError(f"ids must be integers, not {ids.dtype}")
            array, is_tensor = (ids if ids.device.type == "cpu" else ids.cpu()).numpy(), True
    dtype = array.dtype
    if dtype.char not in _NATIVE_IDS or array.ndim != 1 or not dtype.isnative:
        array = _converted(array, ids, info)
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned):
        array = np.require(array, requirements=("C", "A"))
    return array, is_tensor


def _range(ids: slice | range | None, info: TableInfo | None) -> range:
    """A slice or ``None`` as the ids that it means."""
    if isinstance(ids, range):
        return ids
    if info is None:
        raise TypeError(f"ids must be integers, not {'None' if ids is None else 'a slice'}: only tables can be sliced")
    return range(info.rows) if ids is None else range(info.rows)[ids]


def written(ids: Ids) -> np.ndarray:
    """Ids as an array."""
    if isinstance(ids, range):
        return np.arange(ids.start, ids.stop, ids.step, dtype=np.int64)
    return ids


def _converted(array: np.ndarray, ids: Any, info: TableInfo | None) -> np.ndarray:
    """Ids that the native client cannot read as they are: masks, small integers, the other byte order, or no ids."""
    if array.ndim != 1:
        raise ValueError(f"ids must have one dimension, not {array.ndim} (their shape is {array.shape})")
    kind = array.dtype.kind
    if kind == "b" and info is not None:
        if len(array) != info.rows:
            raise ValueError(
                f"the mask has {len(array)} elements, and table {info.name!r} has {info.rows} rows: a mask must have one "
                "element for each row"
            )
        return np.flatnonzero(array)
    if kind not in "iu":
        if array.size > 0 or isinstance(ids, np.ndarray):
            raise TypeError(f"ids must be integers, not {array.dtype}")
        # An empty list has no type of its own.
        return array.astype(np.int64)
    wide = array.dtype.itemsize == 8
    return array.astype((np.uint64 if wide else np.uint32) if kind == "u" else (np.int64 if wide else np.int32))


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


def as_row_bytes(rows: Any, count: int, info: TableInfo) -> np.ndarray:
    """Turn new rows of a caller into the bytes that the native client sends.

    Parameters
    ----------
    rows : numpy.ndarray or torch.Tensor
        ``[count, *info.shape]`` of the table's element type; for ``bf16`` a tensor of ``torch.bfloat16`` or the bits as
        ``uint16``.
    count : int
        Rows that there must be.
    info : TableInfo
        The table.

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
    if is_tensor_object(rows):
        torch = sys.modules["torch"]
        rows = rows.detach().cpu()
        if rows.dtype == torch.bfloat16:
            rows = rows.contiguous().view(torch.int16).numpy().view(np.uint16)
        else:
            rows = rows.numpy()
    array = np.asarray(rows)
    if array.dtype != info.numpy_dtype:
        raise TypeError(f"table {info.name!r} has rows of {info.numpy_dtype}, not of {array.dtype}: convert them first")
    _check_shape("rows have", array.shape, count, info)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def as_rows(rows: Any, as_tensor: bool, info: TableInfo) -> Any:
    """Wrap rows in an array or a tensor over the memory that they were gathered into.

    Parameters
    ----------
    rows : rudder._native.Rows or numpy.ndarray
        What the native client answered; the result keeps it alive.
    as_tensor : bool
        Whether the caller wants a tensor.
    info : TableInfo
        The table.

    Returns
    -------
    numpy.ndarray or torch.Tensor
        ``[n, *info.shape]``, writable.
    """
    array = np.asarray(rows)
    return tensor_of(array, info.dtype) if as_tensor else array


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
    if dtype in _NEW_IN_TORCH and not hasattr(torch, array.dtype.name):
        raise TypeError(
            f"rows of {dtype} are torch.{array.dtype.name}, which torch 2.3 brought, and this is torch {torch.__version__}: "
            "ask with a NumPy array of ids and convert what comes, or update torch"
        )
    return torch.from_numpy(array)


def check_out(out: Any, count: int, info: TableInfo) -> None:
    """Refuse an array or a tensor that rows cannot be put into.

    Parameters
    ----------
    out : numpy.ndarray or torch.Tensor
        What the caller gave.
    count : int
        Rows that it is for.
    info : TableInfo
        Their table.

    Raises
    ------
    TypeError
        If it is neither, or its elements are of another type than the table's.
    ValueError
        If its shape is another, or it cannot be written to.
    """
    is_array = isinstance(out, np.ndarray)
    if not is_array and not is_tensor_object(out):
        raise TypeError(f"out for table {info.name!r} must be an array or a tensor, not {type(out).__name__}")
    if not same_dtype(info, out.dtype):
        raise TypeError(f"table {info.name!r} has rows of {info.dtype}, and out is of {out.dtype}: rows are never converted")
    _check_shape("out has", tuple(out.shape), count, info)
    if is_array and not out.flags.writeable:
        raise ValueError(f"out for table {info.name!r} is read-only: give an array that can be written to")


def _check_shape(what: str, shape: tuple[int, ...], count: int, info: TableInfo) -> None:
    wanted = (count, *info.shape)
    if shape != wanted:
        raise ValueError(f"{what} shape {shape}; for these ids of table {info.name!r} it must be {wanted}")


def fill(out: Any, rows: Any, info: TableInfo) -> Any:
    """Copy rows into what :func:`check_out` has let pass, and answer it. Rows that were gathered there stay as they are.

    Parameters
    ----------
    out : numpy.ndarray or torch.Tensor
        Any strides.
    rows : rudder._native.Rows or numpy.ndarray
        What the native client answered.
    info : TableInfo
        The table.
    """
    array = np.asarray(rows)
    if isinstance(out, np.ndarray):
        if array is not out:
            np.copyto(out, array)
    elif out.device.type != "cpu" or out.data_ptr() != array.ctypes.data:
        # Not recorded by autograd, should the tensor be a parameter.
        out.detach().copy_(as_rows(array, True, info))
    return out
