"""Tables as GraphBolt's features, and all tables of a dataset as its feature store.

It owns the faces that GraphBolt knows: reads at once, reads in stages, and the keys of features. It must never sample, and
never import what only some versions of GraphBolt have.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Optional

import torch
from dgl import graphbolt as gb

from .._client import Client
from .._connect import default_client
from .._tables import TableInfo, table_of

__all__ = ["Feature", "FeatureStore", "Key"]

#: Minibatches between the announcement and the fetch of staged reads. More cost memory: a loader holds them.
STAGES_MIN, STAGES_MAX = 2, 16

#: A feature's key in a store: domain (``"node"`` or ``"edge"``), type (``None`` in a graph with one) and name.
Key = tuple[str, Optional[str], str]


class Feature(gb.Feature):
    """One table as a feature.

    Parameters
    ----------
    table : str
        The table's name.
    client : Client, optional
        By default the one that all loaders of the process share.
    stages : int, optional
        In how many stages GraphBolt reads it where it can (:meth:`read_async_num_stages`): that many minibatches ahead it is
        announced. By default what the daemon would like, from 2 to 16.

    Raises
    ------
    UnknownTableError
        If there is no such table; the message names the nearest.
    """

    def __init__(self, table: str, client: Client | None = None, *, stages: int | None = None) -> None:
        super().__init__()
        if stages is not None and stages < STAGES_MIN:
            raise ValueError(f"stages is {stages}: it must be at least {STAGES_MIN}")
        self._client = default_client() if client is None else client
        self._info = table_of(self._client.tables(), table)
        self._stages = stages

    @property
    def table(self) -> str:
        """Name of the table."""
        return self._info.name

    @property
    def client(self) -> Client:
        """The client that fetches."""
        return self._client

    def read(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Read rows.

        Parameters
        ----------
        ids : torch.Tensor, optional
            Of ``int32`` or ``int64``. By default all rows, as far as the client's ``whole_bytes_max`` allows.

        Returns
        -------
        torch.Tensor
            ``[len(ids), *size()]``, on the device of ``ids``.
        """
        rows: torch.Tensor = self._client.fetch(self.table, ids, device="cpu" if ids is None else _device_of(ids))
        return rows

    def read_async(self, ids: torch.Tensor) -> Iterator[Any]:
        """Read rows in stages: the first announces them, the last but one has given the daemon time, the last sends the fetch.

        GraphBolt lets a minibatch wait after each stage until the next one has come so far. So as many minibatches as there are
        stages lie between the announcement and the fetch.

        Parameters
        ----------
        ids : torch.Tensor
            As :meth:`read`.

        Yields
        ------
        None, and at last an object whose ``wait()`` gives the rows
        """
        # The stages of one minibatch are those that were promised when the loader was built.
        stages = self.read_async_num_stages(ids.device)
        batch = self._client.announce(self.table, ids)
        for _ in range(stages - 1):
            yield
        yield self._client.fetch_async(batch, device=_device_of(ids))

    def read_async_num_stages(self, ids_device: torch.device) -> int:
        """Stages of :meth:`read_async`, the same for every device.

        Parameters
        ----------
        ids_device : torch.device
            Where the ids lie.

        Returns
        -------
        int
        """
        if self._stages is None:
            # Asked once: GraphBolt makes its pipe for this number.
            self._stages = min(max(self._client.horizon(self.table), STAGES_MIN), STAGES_MAX)
        return self._stages

    def size(self) -> torch.Size:
        """Shape of one row.

        Returns
        -------
        torch.Size
        """
        return torch.Size(self._info.shape)

    def count(self) -> int:
        """Rows of the whole table.

        Returns
        -------
        int
        """
        return self._info.rows

    def update(self, value: torch.Tensor, ids: torch.Tensor | None = None) -> None:
        """Write rows through to the nodes that own them, as :meth:`Client.update`.

        Parameters
        ----------
        value : torch.Tensor
            ``[len(ids), *size()]`` of the table's type.
        ids : torch.Tensor, optional
            By default all rows.
        """
        ids = torch.arange(self.count()) if ids is None else ids.cpu()
        self._client.update(self.table, ids, value.cpu())

    def metadata(self) -> dict[str, Any]:
        """What Rudder knows of the table.

        Returns
        -------
        dict
        """
        return {"table": self.table, "type": self._info.vertex_type, "dtype": self._info.dtype}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(table={self.table!r}, rows={self.count()}, size={tuple(self.size())})"


class FeatureStore(gb.FeatureStore):
    """All tables of the dataset as a feature store.

    Keys are GraphBolt's: ``("node", "paper", "x")`` is the table ``paper.x``, ``("edge", "author:writes:paper", "w")`` is
    ``author:writes:paper.w``. Where the graph has one type, its name may be ``None``: ``("node", None, "feat")`` is ``feat``.

    Parameters
    ----------
    client : Client, optional
        By default the one that all loaders of the process share.
    keys : mapping of (domain, type, name) to str, optional
        Tables for keys that the dataset names otherwise; they are there beside the others.
    stages : int, optional
        As :class:`Feature`.

    Raises
    ------
    UnknownTableError
        If ``keys`` names a table that there is not.
    """

    def __init__(
        self, client: Client | None = None, keys: Mapping[Key, str] | None = None, *, stages: int | None = None
    ) -> None:
        super().__init__()
        self._client = default_client() if client is None else client
        tables = self._client.tables()
        self._features: dict[Key, gb.Feature] = {
            key: Feature(table, self._client, stages=stages) for key, table in _keys(tables).items()
        }
        for key, table in (keys or {}).items():
            self._features[_key(key)] = Feature(table, self._client, stages=stages)

    def __getitem__(self, feature_key: Key) -> gb.Feature:
        key = self._find(feature_key)
        if key is None:
            raise self._unknown(feature_key)
        return self._features[key]

    def __setitem__(self, feature_key: Key, feature: gb.Feature) -> None:
        self._features[self._find(feature_key) or _key(feature_key)] = feature

    def __contains__(self, feature_key: object) -> bool:
        return self._find(feature_key) is not None

    def __len__(self) -> int:
        return len(self._features)

    def keys(self) -> list[Key]:
        """The keys of all features.

        Returns
        -------
        list of (domain, type, name)
        """
        return list(self._features)

    def read(self, domain: str, type_name: str | None, feature_name: str, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Read rows of a feature, as :meth:`Feature.read`."""
        return self[domain, type_name, feature_name].read(ids)

    def size(self, domain: str, type_name: str | None, feature_name: str) -> torch.Size:
        """Shape of one row of a feature."""
        return self[domain, type_name, feature_name].size()

    def count(self, domain: str, type_name: str | None, feature_name: str) -> int:
        """Rows of a feature."""
        return self[domain, type_name, feature_name].count()

    def metadata(self, domain: str, type_name: str | None, feature_name: str) -> dict[str, Any]:
        """What is known of a feature."""
        return self[domain, type_name, feature_name].metadata()

    def update(
        self,
        domain: str,
        type_name: str | None,
        feature_name: str,
        value: torch.Tensor,
        ids: torch.Tensor | None = None,
    ) -> None:
        """Write rows of a feature, as :meth:`Feature.update`."""
        self[domain, type_name, feature_name].update(value, ids)

    def _find(self, key: Any) -> Key | None:
        """The key under which a feature is kept; a type that is the only one need not be named."""
        if not isinstance(key, tuple) or len(key) != 3:
            return None
        if key in self._features:
            return _key(key)
        domain, type_name, name = key
        if type_name is not None:
            return None
        found = [other for other in self._features if other[0] == domain and other[2] == name]
        return found[0] if len(found) == 1 else None

    def _unknown(self, key: Any) -> KeyError:
        if not isinstance(key, tuple) or len(key) != 3:
            return KeyError(f"a feature is named by (domain, type, name), not by {key!r}")
        texts = {_text(other): other for other in self._features}
        near = difflib.get_close_matches(_text(key), texts, n=3, cutoff=0.5)
        named = " or ".join(str(texts[text]) for text in near) or ", ".join(map(str, self._features))
        return KeyError(f"no feature {key}; did you mean {named}?")


def _keys(tables: Mapping[str, TableInfo]) -> dict[Key, str]:
    """GraphBolt's key of each table."""
    types = {info.vertex_type for info in tables.values() if info.edge_type is None}
    keys: dict[Key, str] = {}
    for table, info in tables.items():
        if info.edge_type is not None:
            keys["edge", info.vertex_type, info.attr] = table
        else:
            keys["node", None if len(types) == 1 else info.vertex_type, info.attr] = table
    return keys


def _key(key: Any) -> Key:
    domain, type_name, name = key
    return domain, type_name, name


def _text(key: Any) -> str:
    return "/".join(str(part) for part in key if part is not None)


def _device_of(ids: torch.Tensor) -> Any:
    """Where rows should lie; nothing for the CPU, so that they stay in the memory that they came in."""
    return ids.device if ids.is_cuda else None
