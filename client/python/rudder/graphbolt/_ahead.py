"""Lookahead for a built loader of GraphBolt: minibatches are announced when they are sampled, before their features are read.

It owns the place in the loader's pipe, and the rows that were fetched for the minibatch that is read next. It must never touch
the sampling, and never give the rows of another minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from dgl import graphbolt as gb
from torch.utils.data import IterDataPipe

from .._ahead import Ahead, Clock
from .._client import Client
from ._features import Feature, Key

__all__ = ["ahead"]


def ahead(
    loader: Any,
    client: Client | None = None,
    *,
    horizon: int | None = None,
    overlap: int = 1,
    progress: bool = True,
    steps_per_epoch: int | None = None,
) -> Any:
    """Have a loader announce the minibatches that it has sampled, before it reads their features.

    The loader is changed and returned. Where its features are read in stages (DGL 2.4 on), they announce by themselves, and this
    only counts epochs and reports progress.

    Parameters
    ----------
    loader : dgl.graphbolt.DataLoader
        Built, with a feature fetcher in its pipe.
    client : Client, optional
        By default that of the fetcher's features.
    horizon, overlap, progress, steps_per_epoch
        As :class:`rudder.Ahead`. ``progress=False`` is for the loader of an evaluation.

    Returns
    -------
    dgl.graphbolt.DataLoader
        ``loader``.

    Raises
    ------
    ValueError
        If the loader's pipe has no feature fetcher, none of its features is Rudder's, or this was called for it before.
    """
    fetcher = _fetcher_of(loader)
    features = _features_of(fetcher)
    if not features:
        raise ValueError(
            "none of the features that the loader fetches is Rudder's: give fetch_feature a rudder.graphbolt.FeatureStore, or a "
            "store with a rudder.graphbolt.Feature"
        )
    if client is None:
        client = next(iter(features.values())).client
    if getattr(fetcher, "max_num_stages", 0) > 0:
        loader.datapipe = _Counted(loader.datapipe, client if progress else None, steps_per_epoch)
        return loader
    wants = _Wants(fetcher, features)
    before = _start_of(fetcher)
    source = Ahead(
        before.datapipe,
        wants.of,
        wants.hand_over,
        client=client,
        horizon=horizon,
        overlap=overlap,
        progress=progress,
        steps_per_epoch=steps_per_epoch,
    )
    before.datapipe = _AheadPipe(before.datapipe, source)
    fetcher.feature_store = wants.store
    return loader


class _AheadPipe(IterDataPipe):  # type: ignore[misc]
    """The pipe between the samplers and the fetcher.

    Parameters
    ----------
    datapipe : IterDataPipe
        What samples; torch walks through a pipe's attributes to find those before it.
    source : Ahead
        Minibatches of it, in their order.
    """

    def __init__(self, datapipe: Any, source: Ahead[Any]) -> None:
        self.datapipe = datapipe
        self._source = source

    def __iter__(self) -> Iterator[Any]:
        yield from self._source


class _Counted(IterDataPipe):  # type: ignore[misc]
    """A pipe that counts epochs and reports the steps that the trainer takes.

    Parameters
    ----------
    datapipe : IterDataPipe
        What gives the minibatches to the trainer.
    client : Client, optional
        Without it nothing is counted.
    steps_per_epoch : int, optional
        Without it the first whole epoch tells.
    """

    def __init__(self, datapipe: Any, client: Client | None, steps_per_epoch: int | None) -> None:
        self.datapipe = datapipe
        self._client = client
        self._steps_per_epoch = steps_per_epoch

    def __iter__(self) -> Iterator[Any]:
        clock = None if self._client is None else Clock(self._client, self._steps_per_epoch)
        steps = 0
        for batch in self.datapipe:
            steps += 1
            if clock is not None:
                clock.tick()
            yield batch
        self._steps_per_epoch = self._steps_per_epoch or steps or None


class _Wants:
    """What the minibatches of one loader need, and the rows that came for the one that is fetched next.

    Parameters
    ----------
    fetcher : dgl.graphbolt.FeatureFetcher
        Whose keys say what is read.
    features : dict of Key to Feature
        Those of the keys that are Rudder's.
    """

    def __init__(self, fetcher: Any, features: dict[Key, Feature]) -> None:
        self._features = features
        self.store = _HandedOver(fetcher.feature_store)

    def of(self, minibatch: Any) -> dict[str, torch.Tensor]:
        """Ids by table: those of several layers, one behind the other."""
        lists: dict[str, list[torch.Tensor]] = {}
        for feature, ids in self._reads(minibatch):
            ids = ids.cpu()
            known = lists.setdefault(feature.table, [])
            known.append(ids)
        return {table: ids[0] if len(ids) == 1 else torch.cat(ids) for table, ids in lists.items()}

    def hand_over(self, minibatch: Any, rows: Mapping[str, torch.Tensor]) -> None:
        """Put the rows where the fetcher reads next."""
        at = dict.fromkeys(rows, 0)
        handed = []
        for feature, ids in self._reads(minibatch):
            table = feature.table
            begin, at[table] = at[table], at[table] + len(ids)
            handed.append((table, ids, rows[table][begin : at[table]]))
        self.store.handed = handed

    def _reads(self, minibatch: Any) -> Iterator[tuple[Feature, torch.Tensor]]:
        """The reads of the fetcher for this minibatch: each feature and the ids, as the fetcher will give them."""
        for (domain, type_name, name), feature in self._features.items():
            if domain == "node":
                yield from ((feature, ids) for ids in _of_type(minibatch.node_ids(), type_name))
                continue
            for layer in range(minibatch.num_layers()):
                yield from ((feature, ids) for ids in _of_type(minibatch.edge_ids(layer), type_name))


class _HandedOver(gb.FeatureStore):
    """A store that first looks at what was handed over for this minibatch, then asks the store behind it.

    Parameters
    ----------
    store : dgl.graphbolt.FeatureStore
        The one behind it.

    Attributes
    ----------
    handed : list of (table, ids, rows)
        For the minibatch that is fetched next. The same tensor of ids, not equal ones, tells which rows are meant.
    """

    def __init__(self, store: Any) -> None:
        super().__init__()
        self._store = store
        self.handed: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_store":
            raise AttributeError(name)
        return getattr(self._store, name)

    def read(self, domain: str, type_name: str | None, feature_name: str, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Rows that were handed over, or those of the store."""
        feature = _feature_of(self._store, (domain, type_name, feature_name))
        if isinstance(feature, Feature):
            for at, (table, known, rows) in enumerate(self.handed):
                if known is ids and table == feature.table:
                    # Nothing here may hold rows that the trainer has dropped.
                    del self.handed[at]
                    return rows.to(ids.device)
        read: torch.Tensor = self._store.read(domain, type_name, feature_name, ids)
        return read


def _fetcher_of(loader: Any) -> Any:
    """The fetcher in a loader's pipe, which is followed upstream."""
    pipe = loader
    while pipe is not None:
        if isinstance(pipe, _Counted) or isinstance(getattr(pipe, "feature_store", None), _HandedOver):
            raise ValueError("this loader announces already: rudder.graphbolt.ahead was called for it before")
        if isinstance(pipe, gb.FeatureFetcher):
            return pipe
        pipe = _upstream(pipe)
    raise ValueError(
        f"no feature fetcher in the pipe of this {type(loader).__name__}: build a dgl.graphbolt.DataLoader over a pipe with "
        "fetch_feature"
    )


def _upstream(pipe: Any) -> Any:
    """The pipe that a pipe, or a loader, takes minibatches from."""
    # torch puts the last pipe into a wrapper of its own, as `_datapipe`.
    for name in ("datapipe", "source_datapipe", "dataset", "_datapipe"):
        found = getattr(pipe, name, None)
        if found is not None:
            return found
    return None


def _start_of(fetcher: Any) -> Any:
    """The pipe whose input is what the samplers give: the fetcher itself, or the mark of its beginning in later versions."""
    mark = getattr(gb, "FeatureFetcherStartMarker", None)
    pipe = fetcher
    while mark is not None and not isinstance(pipe, mark):
        pipe = pipe.datapipe
    return pipe


def _features_of(fetcher: Any) -> dict[Key, Feature]:
    """Those features that a fetcher reads and that are Rudder's, by key."""
    found = {}
    for key in _wanted_keys(fetcher):
        feature = _feature_of(fetcher.feature_store, key)
        if isinstance(feature, Feature):
            found[key] = feature
    return found


def _wanted_keys(fetcher: Any) -> list[Key]:
    """The keys that a fetcher reads."""
    keys: list[Key] = []
    for domain, wanted in (("node", fetcher.node_feature_keys), ("edge", fetcher.edge_feature_keys)):
        if isinstance(wanted, Mapping):
            keys += [(domain, type_name, name) for type_name, names in wanted.items() for name in names]
        else:
            keys += [(domain, None, name) for name in wanted or ()]
    return keys


def _feature_of(store: Any, key: Key) -> Any:
    """A store's feature; stores before DGL 2.2 cannot be asked for it."""
    if hasattr(type(store), "__getitem__"):
        return store[key] if key in store else None
    return getattr(store, "_features", {}).get(key)


def _of_type(ids: Any, type_name: str | None) -> list[torch.Tensor]:
    """The ids of one type out of a minibatch's, if it has any."""
    if ids is None:
        return []
    if type_name is None:
        return [] if isinstance(ids, Mapping) else [ids]
    if not isinstance(ids, Mapping):
        return []
    found = [of_type for name, of_type in ids.items() if (":".join(name) if isinstance(name, tuple) else name) == type_name]
    return [of_type for of_type in found if of_type is not None]
