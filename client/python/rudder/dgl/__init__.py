"""Rudder under DistDGL: features of a ``DistGraph`` that the daemon of this node serves, and lookahead over its loaders.

>>> g.ndata["feat"] = rudder.dgl.DistTensor("feat")                     # doctest: +SKIP
>>> for input_nodes, seeds, blocks in rudder.dgl.ahead(loader):         # doctest: +SKIP
...     x = g.ndata["feat"][input_nodes]
"""

from ._ahead import Ahead, ahead
from ._embedding import DistEmbedding
from ._tensor import DistTensor, default_client

__all__ = ["Ahead", "DistEmbedding", "DistTensor", "ahead", "default_client"]
