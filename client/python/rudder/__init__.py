"""Feature rows for distributed GNN training, fetched from the daemon of this node.

>>> import rudder
>>> client = rudder.connect()                    # doctest: +SKIP
>>> x = client.fetch("feat", ids)                # doctest: +SKIP
"""

from ._ahead import Ahead
from ._client import ARENA_BYTES_MAX, WHOLE_BYTES_MAX, Client
from ._connect import connect
from ._dataset import Dataset, Graph
from ._launch import Daemon, launch
from ._loader import Loader
from ._native import __version__
from ._pending import Pending
from ._selection import Batch
from ._tables import TableInfo
from .errors import *  # noqa: F403
from .errors import __all__ as _errors

__all__ = [
    "ARENA_BYTES_MAX",
    "Ahead",
    "Batch",
    "Client",
    "Daemon",
    "Dataset",
    "Graph",
    "Loader",
    "Pending",
    "TableInfo",
    "WHOLE_BYTES_MAX",
    "__version__",
    "connect",
    "launch",
    *_errors,
]
