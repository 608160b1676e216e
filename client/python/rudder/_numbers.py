"""Numbers as arguments: integers within the bounds of the protocol."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["STEP_MAX", "TRAINER_MAX", "U32_MAX", "integer"]

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
