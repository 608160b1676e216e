"""Files of a dataset as mapped arrays: nothing is read before it is used, and no file is written.

Headers and lengths are held against the manifest; what differs is an error that names the file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .errors import FormatError, StorageError

__all__ = ["map_array", "map_piece"]


def _length(path: Path) -> int:
    """Bytes of a file that the manifest names."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        words = "named in the manifest but missing: copy it to this machine or import the dataset again"
        raise StorageError(f"{path}: {words}") from None


def map_array(
    folder: Path,
    file: dict[str, Any],
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[str, ...],
    mode: str,
    *,
    exact: bool = False,
) -> np.ndarray:
    """Map a ``.npy`` file.

    Parameters
    ----------
    folder : pathlib.Path
        The dataset's folder.
    file : dict
        What the manifest says of the file.
    shapes : tuple of tuple of int
        One of which it must have.
    dtypes : tuple of str
        The element types that it may have, in NumPy's words.
    mode : str
        ``"r"``, or ``"c"`` for memory that may be written without a change of the file.
    exact : bool
        Whether the file must have the shape itself; else as many rows and elements.

    Returns
    -------
    numpy.ndarray
        Of one of `shapes`.

    Raises
    ------
    StorageError
        If the file is missing, or has another length than the manifest says.
    FormatError
        If it is no array of this shape and type.
    """
    path = folder / file["path"]
    found, expected = _length(path), file["bytes"]
    if found != expected:
        raise StorageError(f"{path}: {found} bytes, but the manifest says {expected}: copy the file again")
    try:
        # Nothing can be mapped of an array without elements.
        array = np.load(path, mmap_mode=mode if all(map(math.prod, shapes)) else None)
    except (ValueError, EOFError) as error:
        raise FormatError(f"{path}: {error}: copy the file again") from None
    for shape in shapes:
        fits = array.shape[:1] == shape[:1] and array.size == math.prod(shape)
        if array.dtype.str in dtypes and array.flags.c_contiguous and (array.shape == shape or (fits and not exact)):
            return array.view(np.ndarray).reshape(shape)
    expected = f"{np.dtype(dtypes[0])} {' or '.join(map(str, shapes))}"
    words = f"its elements are {array.dtype} {array.shape}, but the manifest says {expected}"
    raise FormatError(f"{path}: {words}: the two are not of one import; copy both again")


def map_piece(folder: Path, file: dict[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Map rows that lie in a file of another format, wherever they begin.

    Parameters
    ----------
    folder : pathlib.Path
        The dataset's folder.
    file : dict
        What the manifest says of the piece.
    shape : tuple of int
        What it has.
    dtype : numpy.dtype
        Element type.

    Returns
    -------
    numpy.ndarray
        Read-only; not aligned.

    Raises
    ------
    StorageError
        If the file is missing, or ends before its rows do.
    """
    path, end = folder / file["path"], file["offset"] + file["bytes"]
    found = _length(path)
    if found < end:
        words = f"truncated: {found} bytes, but its rows are the {file['bytes']} bytes from offset {file['offset']}"
        raise StorageError(f"{path}: {words}: copy the file again")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", file["offset"], shape).view(np.ndarray)
