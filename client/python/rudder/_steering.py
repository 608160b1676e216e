"""Steering the cache of the daemon: the tools of its HTTP interface, for trainers that know better than a controller."""

from __future__ import annotations

import json
import math
from typing import Any

from ._arrays import as_ids, written
from ._numbers import STEP_MAX, integer
from ._tables import TableInfo, table_of

__all__ = ["Steering"]


class Steering:
    """The part of :class:`Client` that changes what the cache holds."""

    __slots__ = ()

    _native: Any
    _tables: dict[str, TableInfo]

    def warm(self, table: str, ids: Any) -> dict[str, Any]:
        """Bring rows into the cache of this node, as far as it has room for them.

        Parameters
        ----------
        table, ids
            As :meth:`fetch`; rows of this node itself need no cache and are left out.

        Returns
        -------
        dict
            What was done, in numbers.

        Raises
        ------
        RudderError, TypeError, ValueError
            As :meth:`fetch`.
        """
        array, _ = as_ids(ids, table_of(self._tables, table))
        return _answer(self._native.warm(table, written(array)))

    def grow(
        self, *, rows: int | None = None, factor: float | None = None, table: str | None = None
    ) -> dict[str, Any]:
        """Change the capacity of the cache.

        Parameters
        ----------
        rows : int, optional
            Rows to hold from now on. Give either this or ``factor``.
        factor : float, optional
            Times the present capacity; below 1 it shrinks.
        table : str, optional
            The table; by default all that are cached.

        Returns
        -------
        dict
            What was done, in numbers.

        Raises
        ------
        TypeError, ValueError
            If an argument has another type, or makes no sense (:class:`ArgumentError` where the daemon says so).
        RudderError
            What else the daemon refuses or the connection suffers.
        """
        rows = None if rows is None else integer("rows", rows, 0, STEP_MAX)
        return self._tool("grow", rows=rows, factor=_number("factor", factor), table=table)

    def evict(self, fraction: float, *, forget: bool = False, table: str | None = None) -> dict[str, Any]:
        """Turn cold cached rows over in favour of hotter ones.

        Parameters
        ----------
        fraction : float
            Largest share of the cached rows that may go, above 0 and at most 1.
        forget : bool
            Drop what was learned of the accesses first: they have changed.
        table : str, optional
            The table; by default all that are cached.

        Returns
        -------
        dict
            What was done, in numbers.

        Raises
        ------
        TypeError, ValueError
            If an argument has another type, or makes no sense (:class:`ArgumentError` where the daemon says so).
        RudderError
            What else the daemon refuses or the connection suffers.
        """
        return self._tool("evict", fraction=_number("fraction", fraction), forget=bool(forget), table=table)

    def refresh(self, *, max_age_s: float | None = None, table: str | None = None) -> dict[str, Any]:
        """Bring cached and staged rows up to date with their owners.

        A fetch that begins after this has returned gets rows as new as their owners had when this was called.

        Parameters
        ----------
        max_age_s : float, optional
            Leave out the rows of owners that were asked less than this many seconds ago; by default no rows are left out.
        table : str, optional
            The table; by default all.

        Returns
        -------
        dict
            What was done, in numbers, and the owners that could not be asked.

        Raises
        ------
        TypeError, ValueError
            If an argument has another type, or makes no sense (:class:`ArgumentError` where the daemon says so).
        RudderError
            What else the daemon refuses or the connection suffers.
        """
        return self._tool("refresh", max_age_s=_number("max_age_s", max_age_s), table=table)

    def hold(self) -> dict[str, Any]:
        """Change nothing; the daemon counts the call.

        Returns
        -------
        dict

        Raises
        ------
        RudderError
            What the connection suffers.
        """
        return self._tool("hold")

    def _tool(self, tool: str, **arguments: Any) -> dict[str, Any]:
        if arguments.get("table") is not None:
            table_of(self._tables, arguments["table"])
        given = {name: value for name, value in arguments.items() if value is not None}
        return _answer(self._native.tool(json.dumps({"tool": tool, **given})))


def _number(what: str, value: Any) -> float | None:
    """An argument as a finite number, which JSON can hold; NumPy's numbers too."""
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{what} is {number}: it must be a finite number")
    return number


def _answer(text: str) -> dict[str, Any]:
    """Read what a tool answered."""
    answer: dict[str, Any] = json.loads(text)
    return answer
