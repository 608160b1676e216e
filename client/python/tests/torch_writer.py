"""Writes files as torch does, byte for byte where it matters, without torch: for tests of the readers.

Pickles are put together from their opcodes, so that a test can also write what no honest program would.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_FLOATS = {"f8": "Double", "f4": "Float", "f2": "Half", "V2": "BFloat16"}
_STORAGES = {**_FLOATS, "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char", "u1": "Byte", "b1": "Bool"}


@dataclass
class Global:
    """A name that the pickle asks for."""

    module: str
    name: str


@dataclass
class Call:
    """A function of the pickle, called."""

    function: Global
    arguments: tuple[Any, ...]


@dataclass
class Instance:
    """An object without a constructor's call, and its attributes."""

    cls: Global
    state: dict[str, Any]


@dataclass
class Outside:
    """A persistent id."""

    value: Any


def storage_of(array: np.ndarray) -> Global:
    """The class of torch's storage for an array."""
    return Global("torch", f"{_STORAGES[array.dtype.str[1:]]}Storage")


def opcodes(value: Any) -> bytes:
    """A value as the opcodes that build it."""
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        data = value.to_bytes(16, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, (tuple, list)):
        items = b"".join(map(opcodes, value))
        return b"(" + items + b"t" if isinstance(value, tuple) else b"](" + items + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(opcodes(key) + opcodes(item) for key, item in value.items()) + b"u"
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return opcodes(value.function) + opcodes(value.arguments) + b"R"
    if isinstance(value, Instance):
        return opcodes(value.cls) + b")\x81" + opcodes(value.state) + b"b"
    if isinstance(value, Outside):
        return opcodes(value.value) + b"Q"
    raise TypeError(value)


def pickled(value: Any) -> bytes:
    """A whole pickle."""
    return b"\x80\x04" + opcodes(value) + b"."


def tensor(array: np.ndarray, storage: Any) -> Call:
    """The call that makes a tensor of a storage."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    arguments = (storage, 0, array.shape, strides, False, Call(Global("collections", "OrderedDict"), ()))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


def save(path: Path, value: Any) -> None:
    """Write an archive as ``torch.save`` does; arrays inside of `value` become tensors."""
    arrays: list[np.ndarray] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickled(_with_tensors(value, arrays)))
        archive.writestr(f"{path.stem}/byteorder", "little")
        for key, array in enumerate(arrays):
            archive.writestr(f"{path.stem}/data/{key}", array.tobytes())
        archive.writestr(f"{path.stem}/version", "3\n")


def _with_tensors(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return tensor(value, Outside(("storage", storage_of(value), str(len(arrays) - 1), "cpu", value.size)))
    if isinstance(value, dict):
        return {key: _with_tensors(item, arrays) for key, item in value.items()}
    if isinstance(value, Instance):
        return Instance(value.cls, _with_tensors(value.state, arrays))
    return value


def legacy(value: Any, arrays: dict[str, np.ndarray]) -> bytes:
    """A file of ``torch.save`` that is no archive."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = b"".join(map(pickled, (0x1950A86A20F9469CFC6C, 1001, facts, value, list(arrays))))
    return heads + b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values())


def pickled_tensor(array: np.ndarray) -> bytes:
    """A tensor as ``pickle.dump`` writes it: its storage is a file inside the pickle."""
    outside = Outside(("storage", storage_of(array), "0", "cpu", array.size, None))
    return pickled(tensor(array, Call(Global("torch.storage", "_load_from_bytes"), (legacy(outside, {"0": array}),))))


def append(path: Path, values: Iterable[Any]) -> None:
    """Append pickles to a file, as GraphLearn does: arrays as tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for value in values:
            file.write(pickled_tensor(value) if isinstance(value, np.ndarray) else pickled(value))
