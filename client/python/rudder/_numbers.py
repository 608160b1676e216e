"""Numbers: arguments within the bounds of the protocol, and those that this package draws for batches."""

from __future__ import annotations

import itertools
import operator
import os
import secrets
from typing import Any

__all__ = ["STEP_MAX", "TRAINER_MAX", "U32_MAX", "integer", "next_batch"]

U32_MAX = (1 << 32) - 1
STEP_MAX = 2**63 - 1
TRAINER_MAX = 2**128 - 1


def integer(what: str, value: Any, least: int, most: int) -> int:
    """An argument as an integer within bounds; NumPy's integers too.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is out of bounds.
    """
    number = operator.index(value)
    if not least <= number <= most:
        raise ValueError(f"{what} is {number}: it must be from {least} to {most}")
    return number


class _Batches:
    """Numbers of batches. They begin at random in each process, so that those of one trainer's processes are distinct."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.next = itertools.count(secrets.randbits(62)).__next__


_batches = _Batches()
os.register_at_fork(after_in_child=_batches.renew)


def next_batch() -> int:
    """A number for a batch that no other batch of any process has."""
    return _batches.next()
