"""Whose an id is: translation between ids of the source, ids of the import, names, and the nodes that own rows."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from ._arrays import as_ids, as_ids_of
from ._tables import TableInfo

__all__ = ["Naming"]


class Naming:
    """The part of :class:`Client` that says what ids mean."""

    __slots__ = ()

    _native: Any
    _tables: dict[str, TableInfo]

    def original_ids(self, of: str, dataset_ids: Any) -> Any:
        """The ids that vertices have in their source, from those that the import gave.

        This does not depend on :attr:`ids`. Where vertices were not renumbered, both are the same.

        Parameters
        ----------
        of : str
            A vertex type, or a table of it.
        dataset_ids : array_like of int or torch.Tensor
            One-dimensional, any order, duplicates allowed.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            In the order of ``dataset_ids``: ``int64``; ``uint64`` for an array of ``uint64``; a tensor for a tensor.

        Raises
        ------
        UnknownTableError
            If there is no such table or vertex type, or the name means two vertex types.
        IdOutOfRangeError
            If an id is not below the number of vertices.
        StorageError
            If the daemon cannot read the file of ids.
        RudderError
            For whatever else the daemon refuses or the connection suffers.
        TypeError, ValueError
            If the ids are not integers, negative, or not one-dimensional.
        """
        array, is_tensor = as_ids(dataset_ids)
        return as_ids_of(self._native.original_ids(of, array), array, is_tensor)

    def dataset_ids(self, of: str, original_ids: Any) -> Any:
        """The ids that the import gave to vertices, from those that they have in their source.

        Parameters
        ----------
        of : str
            A vertex type, or a table of it.
        original_ids : array_like of int or torch.Tensor
            One-dimensional, any order, duplicates allowed.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            In the order of ``original_ids``, as :meth:`original_ids`.

        Raises
        ------
        RudderError, TypeError, ValueError
            As :meth:`original_ids`.
        """
        array, is_tensor = as_ids(original_ids)
        return as_ids_of(self._native.dataset_ids(of, array), array, is_tensor)

    def ids_of_names(self, of: str, names: Iterable[str | int]) -> np.ndarray:
        """Find vertices by the names that they have in their source.

        Parameters
        ----------
        of : str
            A vertex type, or a table of it; :attr:`TableInfo.named` says which have names.
        names : iterable of str or int
            An integer is taken as its text: a source whose ids are no numbers from 0 was imported with names.

        Returns
        -------
        numpy.ndarray
            ``int64``, one id for each name, as :attr:`ids` says: what :meth:`fetch` takes.

        Raises
        ------
        UnknownNameError
            If no vertex has a name, which the message holds, or vertices of this type have no names.
        TypeError
            If a name is neither text nor an integer.
        RudderError
            As :meth:`original_ids`.
        """
        if isinstance(names, str):
            raise TypeError("names is one name: give a list of names")
        texts = [name if isinstance(name, str) else str(operator.index(name)) for name in names]
        found: np.ndarray = as_ids_of(self._native.ids_of_names(of, texts), None, False)
        return found

    def names(self, of: str, ids: Any) -> list[str]:
        """The names that vertices have in their source.

        Parameters
        ----------
        of : str
            A vertex type, or a table of it.
        ids : array_like of int or torch.Tensor
            Their ids, as :attr:`ids` says.

        Returns
        -------
        list of str
            In the order of ``ids``.

        Raises
        ------
        UnknownNameError
            If vertices of this type have no names.
        RudderError, TypeError, ValueError
            As :meth:`original_ids`.
        """
        names: list[str] = self._native.names(of, as_ids(ids)[0])
        return names

    def owner(self, of: str, ids: Any) -> Any:
        """The nodes that own rows.

        Parameters
        ----------
        of : str
            A vertex type, or a table of it.
        ids : array_like of int or torch.Tensor
            As :attr:`ids` says.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            In the order of ``ids``: numbers of nodes, as :attr:`node` is one, in ``uint16``; a tensor of ``int64`` for a tensor.

        Raises
        ------
        RudderError, TypeError, ValueError
            As :meth:`original_ids`.
        """
        array, is_tensor = as_ids(ids)
        owners: np.ndarray = self._native.owner(of, array)
        return as_ids_of(owners.astype(np.uint64), None, True) if is_tensor else owners

    def local_range(self, of: str) -> range:
        """The dataset ids of the rows that this node owns, where these follow each other.

        Parameters
        ----------
        of : str
            A vertex type, or a table of it.

        Returns
        -------
        range
            Dataset ids, whatever :attr:`ids` says; :meth:`original_ids` translates them.

        Raises
        ------
        ArgumentError
            If the rows of this node do not follow each other: ask :meth:`owner`.
        RudderError
            As :meth:`original_ids`.
        """
        start, stop = self._native.local_range(of)
        return range(start, stop)
