"""Tensors in files that torch wrote, as NumPy arrays: ``torch.save``'s files are mapped, pickled tensors are read.

A pickle can run code, and these files come from anywhere. So no pickle is loaded here but by :class:`_Restricted`, which builds tensors,
containers and the partition books of GraphLearn, and refuses every other name that a pickle asks for. ``torch.load(weights_only=True)``
would not do: it refuses ``collections.defaultdict``, which PyG's partitions hold, and it cannot read a pickle that holds several tensors one
after the other, as GraphLearn's do. torch itself is never imported.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import FormatError

__all__ = ["RangeBook", "Tensor", "TorchFileError", "load", "load_all"]

#: Element types by the name of torch's storage. NumPy has no brain float: it is two bytes without a meaning here, which
#: ``rudder import`` takes for one.
_ELEMENTS = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "|V2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    # Bytes; the tensor over them says what they are.
    "UntypedStorage": "|u1",
}

#: Element types that torch has no kind of storage for: the tensor names them.
_TENSOR_ELEMENTS = {"uint16": "<u2", "uint32": "<u4", "uint64": "<u8"}

#: What begins a file of ``torch.save`` that is no zip archive, and a storage inside a pickle.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

#: Longest pickle inside an archive: it describes tensors and holds none.
_DESCRIPTION_BYTES_MAX = 64 << 20


class TorchFileError(FormatError):
    """A file that is not what torch writes, or that wants more than tensors."""


class _StorageType:
    """Stands for ``torch.FloatStorage`` and the like."""

    def __init__(self, name: str) -> None:
        self.dtype = np.dtype(_ELEMENTS[name])


class _Storage:
    """The memory of a tensor: known by its key at first, with bytes once they were found."""

    def __init__(self, dtype: np.dtype, data: memoryview | None = None) -> None:
        self.dtype = dtype
        self.data = data


class Tensor:
    """A tensor of a file.

    Attributes
    ----------
    array : numpy.ndarray
        Its elements; a view of the mapped file where the file is one of ``torch.save``.
    """

    __slots__ = ("_dtype", "_offset", "_shape", "_storage", "_strides")

    def __init__(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype | None = None
    ) -> None:
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise TorchFileError("a tensor without a storage, or without its strides")
        self._storage, self._offset, self._shape, self._strides = storage, offset, shape, strides
        self._dtype = dtype or storage.dtype

    @property
    def array(self) -> np.ndarray:
        """The elements, in place."""
        dtype = self._dtype
        if math.prod(self._shape) == 0:
            return np.empty(self._shape, dtype)
        if self._storage.data is None:
            raise TorchFileError("the data of a tensor is missing")
        strides = tuple(stride * dtype.itemsize for stride in self._strides)
        if any(stride < 0 for stride in strides) or self._offset < 0:
            raise TorchFileError("a tensor with a negative stride")
        # NumPy refuses what does not lie inside the storage.
        return np.ndarray(self._shape, dtype, self._storage.data, self._offset * dtype.itemsize, strides)


class RangeBook:
    """A ``RangePartitionBook`` of GraphLearn: part `i` owns the ids up to the bound of `i`, from the bound before it."""

    @property
    def bounds(self) -> np.ndarray:
        """End of each part's range, ascending."""
        bounds = vars(self).get("partition_bounds")
        if not isinstance(bounds, Tensor):
            raise TorchFileError("a RangePartitionBook without partition_bounds")
        return bounds.array


class _Opaque:
    """Part of an object that is built and not looked at."""


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_typed(storage: Any, offset: int, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any) -> Tensor:
    if not isinstance(dtype, np.dtype):
        raise TorchFileError("a tensor of an unknown element type")
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)), dtype)


def _rebuild_from_type(build: Callable[..., Tensor], _type: Any, arguments: tuple[Any, ...], _state: Any) -> Tensor:
    if build not in (_rebuild_tensor, _rebuild_typed):
        raise TorchFileError("a tensor of an unknown kind")
    return build(*arguments)


def _reconstruct(cls: Any, _base: Any, _state: Any) -> Any:
    if cls not in (RangeBook, _Opaque):
        raise TorchFileError("an object that is no tensor")
    return cls()


def _load_storage(data: bytes) -> _Storage:
    storage = _load_legacy(io.BytesIO(data), memoryview(data))
    if not isinstance(storage, _Storage):
        raise TorchFileError("a pickled storage holds something else")
    return storage


#: All that a pickle may name.
_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("builtins", "dict"): dict,
    ("__builtin__", "dict"): dict,
    ("builtins", "list"): list,
    ("__builtin__", "list"): list,
    ("builtins", "object"): object,
    ("__builtin__", "object"): object,
    ("copyreg", "_reconstructor"): _reconstruct,
    ("copy_reg", "_reconstructor"): _reconstruct,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_typed,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("graphlearn_torch.partition.partition_book", "RangePartitionBook"): RangeBook,
    ("graphlearn_torch.partition.partition_book", "OffsetId2Index"): _Opaque,
    ("graphlearn_torch.partition.partition_book", "GLTPartitionBook"): _Opaque,
    **{("torch", name): _StorageType(name) for name in _ELEMENTS},
    ("torch.storage", "UntypedStorage"): _StorageType("UntypedStorage"),
    **{("torch", name): np.dtype(element) for name, element in _TENSOR_ELEMENTS.items()},
}


class _Restricted(pickle.Unpickler):
    """Loads pickles that name only what :data:`_NAMES` holds."""

    def __init__(self, file: BinaryIO, find_storage: Callable[[np.dtype, str], _Storage] | None = None) -> None:
        super().__init__(file)
        self._find_storage = find_storage

    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise TorchFileError(f"its pickle wants `{module}.{name}`: only tensors, containers and partition books are loaded")
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        if self._find_storage is None or not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise TorchFileError("its pickle refers to something outside of it")
        if not isinstance(pid[1], _StorageType) or pid[5:] not in ((), (None,)):
            raise TorchFileError("its pickle holds a storage of an unknown kind")
        return self._find_storage(pid[1].dtype, str(pid[2]))


def _load_legacy(file: BinaryIO, data: memoryview) -> Any:
    """Load what ``torch.save`` wrote without an archive: pickles, then each storage as its length and its elements."""
    storages: dict[str, _Storage] = {}

    def find(dtype: np.dtype, key: str) -> _Storage:
        return storages.setdefault(key, _Storage(dtype))

    if _Restricted(file).load() != _LEGACY_MAGIC:
        raise TorchFileError("no file of torch.save")
    _Restricted(file).load()  # version of the format
    facts = _Restricted(file).load()
    if not (isinstance(facts, dict) and facts.get("little_endian", True)):
        raise TorchFileError("written on a machine with another order of bytes")
    found = _Restricted(file, find).load()
    at = None
    for key in _Restricted(file).load():
        at = file.tell() if at is None else at
        storage = storages[str(key)]
        (elements,) = struct.unpack_from("<q", data, at)
        end = at + 8 + elements * storage.dtype.itemsize
        if elements < 0 or end > len(data):
            raise TorchFileError("it ends before its data does")
        storage.data = data[at + 8 : end]
        at = end
    return found


def _member(archive: zipfile.ZipFile, data: memoryview, name: str) -> memoryview:
    """The bytes of a member of an archive, in place."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise TorchFileError(f"{name} is compressed; torch.save never does that")
    signature, name_bytes, extra_bytes = struct.unpack_from("<4s22xHH", data, info.header_offset)
    start = info.header_offset + 30 + name_bytes + extra_bytes
    if signature != b"PK\x03\x04" or start + info.file_size > len(data):
        raise TorchFileError(f"{name} does not lie where the archive says")
    return data[start : start + info.file_size]


def _load_archive(archive: zipfile.ZipFile, data: memoryview) -> Any:
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise TorchFileError("an archive without data.pkl: no file of torch.save")
    folder = pickles[0][: -len("data.pkl")]
    if f"{folder}byteorder" in archive.NameToInfo and bytes(_member(archive, data, f"{folder}byteorder")) != b"little":
        raise TorchFileError("written on a machine with another order of bytes")
    description = _member(archive, data, pickles[0])
    if len(description) > _DESCRIPTION_BYTES_MAX:
        raise TorchFileError(f"its pickle has more than {_DESCRIPTION_BYTES_MAX} bytes")

    def find(dtype: np.dtype, key: str) -> _Storage:
        return _Storage(dtype, _member(archive, data, f"{folder}data/{key}"))

    return _Restricted(io.BytesIO(description), find).load()


def _guarded(path: Path, load_it: Callable[[], Any]) -> Any:
    """Run `load_it`; whatever a broken file makes of it becomes an error that names the file."""
    try:
        return load_it()
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a broken pickle may raise anything
        raise TorchFileError(f"{path}: cannot be read as tensors: {type(error).__name__}: {error}") from error


def load(path: Path) -> Any:
    """Load a file of ``torch.save``.

    Parameters
    ----------
    path : pathlib.Path
        The file. It stays mapped as long as one of its tensors lives, and must not change meanwhile.

    Returns
    -------
    object
        What was saved, with a :class:`Tensor` in the place of each tensor.

    Raises
    ------
    TorchFileError
        If the file is something else, or its pickle wants more than tensors.
    """

    def load_it() -> Any:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    return _load_archive(archive, data)
            file.seek(0)
            return _load_legacy(file, data)

    return _guarded(path, load_it)


def load_all(path: Path) -> Iterator[Any]:
    """Load the pickles that stand one after the other in a file, one at a time.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Yields
    ------
    object
        What each pickle holds, with a :class:`Tensor` in the place of each tensor.

    Raises
    ------
    TorchFileError
        As :func:`load`.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        while file.tell() < size:
            yield _guarded(path, _Restricted(file).load)
