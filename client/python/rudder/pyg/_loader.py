"""PyG's neighbour loaders with their rows from Rudder: announced as they are sampled, fetched while the trainer computes.

Sampling, transforms and the making of batches are PyG's own code. Here is what happens between them: which rows a sampled
minibatch needs, and when they are asked for. A minibatch never comes out in another order, or with other contents, than
PyG's loader over features in memory gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch_geometric.loader as pyg  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch_geometric.loader.base import DataLoaderIterator  # type: ignore[import-not-found, import-untyped, unused-ignore]

from .._ahead import Clock, Prefetcher
from ._features import Features
from ._graph import GraphStore

__all__ = ["LinkNeighborLoader", "NeighborLoader"]

#: Minibatches that are sampled ahead of the one that is given out, even where workers are slower than the trainer:
#: rows that are announced and fetched in the same moment are waited for.
_LEAD = 2

#: An epoch has this many steps for each of those: they are still to be trained when the workers have nothing to sample.
_STEPS_PER_LEAD = 16

_OPTIONS = """
    Parameters
    ----------
    data : Data, HeteroData, (FeatureStore, Data or HeteroData), or (FeatureStore, GraphStore)
        The graph, and beside it the store of the features. A ``Data`` or ``HeteroData`` alone takes the default
        :class:`FeatureStore`. What it holds itself stays; the attributes that it does not hold come from Rudder.
    *args, **kwargs
        As PyG's loader of the same name, by position and by name. By default, rows are fetched in the main process
        (``filter_per_worker=False``): workers only sample, and what they have sampled is announced while it waits. With
        ``filter_per_worker=True`` each worker fetches the rows of its minibatches, and nothing is announced.
    progress : bool, optional
        ``False`` for evaluation: no epoch is counted, and fetches teach the cache nothing. By default as the store says.
    horizon : int, optional
        Minibatches to announce ahead; by default as many as the daemon asks for, and 0 announces nothing.
    overlap : int
        Minibatches whose rows are gathered while the trainer computes.

    Raises
    ------
    TypeError, ValueError
        If graph and store do not fit together; the message says where.
    RudderError
        While iterating, as :meth:`rudder.Client.fetch`.
"""


class _FromRudder:
    """What both loaders have in common: it stands before PyG's loader in the order of classes."""

    def _set_up(self, data: Any, progress: bool | None, horizon: int | None, overlap: int) -> Features:
        features = Features(data)
        self._features = features
        self._progress = features.store.progress if progress is None else progress
        self._horizon = horizon
        self._overlap = overlap
        # Wrong numbers are refused here and not in the first epoch.
        self._prefetcher().close()
        return features

    def _prefetcher(self) -> Prefetcher:
        client = self._features.store.client
        return Prefetcher(client, horizon=self._horizon, overlap=self._overlap, learns=self._progress)

    @property
    def _announces(self) -> bool:
        """Whether minibatches are announced."""
        return self._progress if self._horizon is None else self._horizon > 0

    @property
    def _sampler(self) -> Any:
        return getattr(self, "node_sampler", None) or self.link_sampler  # type: ignore[attr-defined]

    def _wants(self, out: Any) -> dict[str, torch.Tensor]:
        """What a sampled minibatch needs."""
        return self._features.wants(out, self._sampler.edge_permutation)

    def _sampled(self, out: Any) -> Any:
        """What the sampler gave, as the caller wants it."""
        transform = self.transform_sampler_output  # type: ignore[attr-defined]
        return out if transform is None else transform(out)

    def _filled(self, out: Any, rows: dict[str, torch.Tensor]) -> Any:
        """The batch, out of a sampled minibatch and its rows."""
        batch = super().filter_fn.__func__(_Bare(self), out)  # type: ignore[misc]
        self._features.fill(batch, out, rows)
        transform = self.transform  # type: ignore[attr-defined]
        return batch if transform is None else transform(batch)

    def filter_fn(self, out: Any) -> Any:
        """Join a sampled minibatch with its rows, which are fetched now."""
        out = self._sampled(out)
        return self._filled(out, self._features.store.fetch(self._wants(out), learns=self._progress))

    def _get_iterator(self) -> Iterator[Any]:
        # PyG's loader would wrap what torch's gives; it is torch's that is wanted here.
        iterator = torch.utils.data.DataLoader._get_iterator(self)  # type: ignore[arg-type]
        if self.filter_per_worker:  # type: ignore[attr-defined]
            return _Counted(self, iterator)
        return _Lookahead(self, iterator)


class NeighborLoader(_FromRudder, pyg.NeighborLoader):  # type: ignore[misc]
    __doc__ = f"""PyG's ``NeighborLoader`` with node and edge features from Rudder.
{_OPTIONS}
    Examples
    --------
    >>> train = NeighborLoader(data, [10, 25], train_ids, batch_size=1024, shuffle=True)    # doctest: +SKIP
    >>> test = NeighborLoader(data, [10, 25], test_ids, progress=False)                     # doctest: +SKIP
    """

    def __init__(
        self,
        data: Any,
        num_neighbors: Any,
        input_nodes: Any = None,
        *args: Any,
        progress: bool | None = None,
        horizon: int | None = None,
        overlap: int = 1,
        **kwargs: Any,
    ) -> None:
        features = self._set_up(data, progress, horizon, overlap)
        input_nodes = _input_nodes(features, input_nodes)
        given = _bound(pyg.NeighborLoader, features.data, num_neighbors, input_nodes, *args, **kwargs)
        super().__init__(**given)
        if given.get("neighbor_sampler") is None:
            _name_types(self.node_sampler, features.data)


class LinkNeighborLoader(_FromRudder, pyg.LinkNeighborLoader):  # type: ignore[misc]
    __doc__ = f"""PyG's ``LinkNeighborLoader`` with node and edge features from Rudder.
{_OPTIONS}
    Examples
    --------
    >>> loader = LinkNeighborLoader(data, [10, 25], edges, neg_sampling="binary")           # doctest: +SKIP
    """

    def __init__(
        self,
        data: Any,
        num_neighbors: Any,
        edge_label_index: Any = None,
        *args: Any,
        progress: bool | None = None,
        horizon: int | None = None,
        overlap: int = 1,
        **kwargs: Any,
    ) -> None:
        features = self._set_up(data, progress, horizon, overlap)
        edge_label_index = _input_edges(features, edge_label_index)
        given = _bound(pyg.LinkNeighborLoader, features.data, num_neighbors, edge_label_index, *args, **kwargs)
        super().__init__(**given)
        if given.get("neighbor_sampler") is None:
            _name_types(self.link_sampler, features.data)


class _Bare:
    """A loader as PyG's ``filter_fn`` sees it: without the features that were fetched and without the transforms."""

    transform = None
    transform_sampler_output = None

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.data = loader._features.for_filter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Counted(DataLoaderIterator):  # type: ignore[misc]
    """Gives batches that workers have filled, and reports progress.

    Parameters
    ----------
    loader : NeighborLoader or LinkNeighborLoader
        Whose epoch this is.
    iterator : iterator
        Torch's, over what comes from the workers.
    """

    def __init__(self, loader: Any, iterator: Any) -> None:
        super().__init__(iterator, None)
        self._loader = loader
        self._begin()

    def _begin(self) -> None:
        self._clock = Clock(self._loader._features.store.client, len(self._loader)) if self._loader._progress else None

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        """Begin another epoch with the same workers."""
        super()._reset(loader, first_iter)
        self._begin()

    def _tick(self) -> None:
        if self._clock is not None:
            self._clock.tick()

    def __next__(self) -> Any:
        batch = next(self.iterator)
        self._tick()
        return batch


class _Lookahead(_Counted):
    """Takes minibatches as soon as they are sampled, announces them, and gives each with its rows.

    What goes wrong while a minibatch is sampled is raised where that minibatch would have come out.
    """

    def _begin(self) -> None:
        super()._begin()
        # In place of that of an epoch that was broken off, which gives up what waits.
        self._ahead = self._loader._prefetcher()
        self._lead = min(_LEAD, len(self._loader) // _STEPS_PER_LEAD) if self._loader._announces else 0
        self._has_more = True
        self._failure: Exception | None = None

    def __next__(self) -> Any:
        while self._has_more and self._failure is None and self._takes_more():
            self._sample()
        if len(self._ahead) > 0:
            self._tick()
            return self._loader._filled(*self._ahead.pop())
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        raise StopIteration

    def _takes_more(self) -> bool:
        """Whether to take another minibatch before the next one is given out.

        The trainer waits for few: others are taken where workers have them ready.
        """
        is_hungry, waiting = self._ahead.hungry(), len(self._ahead)
        return waiting == 0 or (is_hungry and (waiting <= self._lead or _is_ready(self.iterator)))

    def _sample(self) -> None:
        try:
            out = self._loader._sampled(next(self.iterator))
            self._ahead.push(self._loader._wants(out), out)
        except StopIteration:
            self._has_more = False
        except Exception as error:
            self._failure = error


def _is_ready(iterator: Any) -> bool:
    """Whether torch's iterator has a minibatch that its workers have sampled. Without workers it can sample one at any time."""
    tasks, queue = getattr(iterator, "_task_info", None), getattr(iterator, "_data_queue", None)
    if tasks is None or queue is None:
        return True
    # A minibatch that came before its turn is kept with its task.
    return len(tasks.get(iterator._rcvd_idx, ())) == 2 or not queue.empty()


def _bound(base: type, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of PyG's loader by name, and where features are fetched if the caller does not say."""
    bound = inspect.signature(base).bind(*args, **kwargs)
    given = {**bound.arguments, **bound.arguments.get("kwargs", {})}
    given.pop("kwargs", None)
    if given.get("filter_per_worker") is None:
        given["filter_per_worker"] = False
    return given


def _input_nodes(features: Features, given: Any) -> Any:
    """The seeds, where they are all nodes and PyG's loader for stores does not count them."""
    if not isinstance(features.data, tuple) or not isinstance(features.graph, GraphStore):
        return given
    if given is None:
        return torch.arange(features.graph.num_nodes())
    if isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[0], str) and given[1] is None:
        return given[0], torch.arange(features.graph.num_nodes(given[0]))
    return given


def _input_edges(features: Features, given: Any) -> Any:
    """The seeds, where PyG's loader for stores wants an edge type and the graph has none."""
    if not isinstance(features.data, tuple) or any(attr.edge_type for attr in features.graph.get_all_edge_attrs()):
        return given
    if given is None:
        row, col, _ = features.graph.coo()
        given = torch.stack([row, col])
    return (None, given) if isinstance(given, torch.Tensor) else given


def _name_types(sampler: Any, data: Any) -> None:
    """Tell the sampler every node type, and all types in their order.

    PyG's own takes the node types of a store from the features, so that it does not know types without any, and puts edge
    types into a set: then equal seeds give other samples in each process.
    """
    if not isinstance(data, tuple) or not isinstance(data[1], GraphStore) or not data[1].edge_types:
        return
    graph = data[1]
    sampler.edge_types = graph.edge_types
    sampler.node_types = graph.node_types
    sampler.num_nodes = {node_type: graph.num_nodes(node_type) for node_type in graph.node_types}
