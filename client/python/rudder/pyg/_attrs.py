"""Which table holds which attribute: from the tables of a client to the groups and attributes of PyG.

A group is what PyG calls the type that an attribute belongs to: a node type, an edge type as a triple, or ``None`` for the
nodes of a graph that names no types. Nothing is fetched here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Union

from .._tables import TableInfo
from ..errors import UnknownTableError

__all__ = ["UNNAMED", "Attrs", "EdgeType", "Group", "Key", "attrs_of", "unknown"]

EdgeType = tuple[str, str, str]
Group = Union[str, EdgeType, None]
Key = tuple[Group, str]

#: What a caller may give to choose attributes.
Attrs = Union[Iterable[Union[str, Key]], Mapping[Union[str, Key], str], None]

#: The vertex type of a graph that names none, as in DGL.
UNNAMED = "_N"


def group_of(info: TableInfo) -> Group:
    """The group of a table's attribute."""
    return info.edge_type or (None if info.vertex_type == UNNAMED else info.vertex_type)


def attrs_of(tables: Mapping[str, TableInfo], wanted: Attrs) -> dict[Key, str]:
    """The attributes that a store serves, each with its table.

    Parameters
    ----------
    tables : mapping of str to TableInfo
        Of the client.
    wanted : iterable, mapping or None
        ``None`` for every table. An iterable holds attributes (``"x"``: of every type that has it), tables
        (``"paper.x"``), or pairs of group and attribute. A mapping gives attributes of other names to tables:
        ``{"x": "feat", ("paper", "y"): "paper.label"}``.

    Returns
    -------
    dict
        From group and attribute to the table's name.

    Raises
    ------
    UnknownTableError
        If there is no such attribute or table; the message names the nearest.
    """
    known = {(group_of(info), info.attr): name for name, info in tables.items()}
    if wanted is None:
        return known
    if isinstance(wanted, str):
        raise TypeError(f"attrs is one name: give a list, [{wanted!r}]")
    chosen: dict[Key, str] = {}
    if isinstance(wanted, Mapping):
        for attr, table in wanted.items():
            if table not in tables:
                raise unknown("table", table, tables)
            group, name = attr if isinstance(attr, tuple) else _of_type(attr, tables[table])
            chosen[group, name] = table
        return chosen
    for one in wanted:
        found = {key: table for key, table in known.items() if one in (key, key[1], table)}
        if not found:
            raise unknown("attribute or table", one, [*tables, *(name for _, name in known)])
        chosen.update(found)
    return chosen


def _of_type(attr: str, info: TableInfo) -> Key:
    """An attribute that was given by its name alone belongs to the type of its table."""
    return group_of(info), attr.removeprefix(f"{info.vertex_type}.")


def unknown(what: str, given: object, known: Iterable[object]) -> UnknownTableError:
    """The error for a name that is not there: it says which names come nearest."""
    names = [*dict.fromkeys(map(_text, known))]
    near = difflib.get_close_matches(_text(given), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(names))}"
    return UnknownTableError(f"no {what} {_text(given)}: {hint}")


def _text(name: object) -> str:
    """A name as a reader writes it: ``paper.x``, ``paper:cites:paper.w``."""
    if isinstance(name, tuple) and len(name) == 2 and (name[0] is None or isinstance(name[0], (str, tuple))):
        group, attr = name
        prefix = "" if group is None else f"{group}." if isinstance(group, str) else f"{':'.join(group)}."
        return f"{prefix}{attr}"
    return ":".join(map(str, name)) if isinstance(name, tuple) else str(name)
