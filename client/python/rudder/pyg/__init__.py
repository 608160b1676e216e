"""PyG with its features in Rudder: a feature store, a graph store, and PyG's neighbour loaders with lookahead.

>>> from rudder.pyg import FeatureStore, NeighborLoader                                     # doctest: +SKIP
>>> loader = NeighborLoader(data, [10, 25], train_ids, batch_size=1024, num_workers=2)      # doctest: +SKIP

The graph and the sampling stay PyG's. Importing this imports ``torch_geometric``; importing ``rudder`` does not.
"""

try:
    import torch_geometric as _torch_geometric  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError as _error:
    raise ImportError("rudder.pyg needs PyG, which is not installed: pip install torch_geometric") from _error

from ._graph import GraphStore
from ._loader import LinkNeighborLoader, NeighborLoader
from ._store import FeatureStore, TensorAttr

__all__ = ["FeatureStore", "GraphStore", "LinkNeighborLoader", "NeighborLoader", "TensorAttr"]

del _torch_geometric
