"""What can go wrong, as exceptions.

Every error of this package is a :class:`RudderError`. Where Python has an exception for the kind, the class derives from it as
well: ``KeyError`` for an unknown table, ``IndexError`` for an id out of range, and so on. ``code`` names the kind for programs.
"""

from __future__ import annotations

import builtins

__all__ = [
    "ArgumentError",
    "ClosedError",
    "ConnectError",
    "ConnectionLostError",
    "DrainingError",
    "ForbiddenError",
    "FormatError",
    "IdOutOfRangeError",
    "InternalError",
    "LaunchError",
    "LimitError",
    "PeerFailedError",
    "PeerUnavailableError",
    "ProtocolError",
    "RudderError",
    "ShapeError",
    "SharedMemoryError",
    "StorageError",
    "TablesChangedError",
    "TimeoutError",
    "UnknownNameError",
    "UnknownTableError",
]


class RudderError(Exception):
    """Base of every error of this package.

    Attributes
    ----------
    code : str
        The kind of error, the same for every error of a class.
    """

    code: str = "error"


class ConnectError(RudderError, ConnectionError):
    """No daemon answers on the socket."""

    code = "connect"


class LaunchError(RudderError, RuntimeError):
    """:func:`rudder.launch` could not start the daemons, or one of them failed."""

    code = "launch"


class ConnectionLostError(RudderError, ConnectionError):
    """The connection broke during the call; the next call connects again."""

    code = "lost"


class ClosedError(RudderError, RuntimeError):
    """The client was closed; rows that it handed out before stay valid."""

    code = "closed"


class TimeoutError(RudderError, builtins.TimeoutError):
    """The daemon did not answer within the client's ``timeout_s``."""

    code = "timeout"


class ProtocolError(RudderError):
    """Client and daemon do not understand each other, for instance because their versions differ."""

    code = "protocol"


class ArgumentError(RudderError, ValueError):
    """The daemon understood the call, but an argument makes no sense; the message names it."""

    code = "argument"


class ForbiddenError(RudderError, PermissionError):
    """The user of this process may not connect to the daemon (``local.allowed_uids``)."""

    code = "forbidden"


class UnknownTableError(RudderError, KeyError):
    """The dataset has no table of that name."""

    code = "unknown_table"

    def __str__(self) -> str:
        # KeyError would show the message in quotes.
        return Exception.__str__(self)


class UnknownNameError(RudderError, KeyError):
    """No vertex has that name, or vertices of this type have no names."""

    code = "unknown_name"

    def __str__(self) -> str:
        # KeyError would show the message in quotes.
        return Exception.__str__(self)


class IdOutOfRangeError(RudderError, IndexError):
    """No vertex of the table has that id; in most datasets it is not below the number of rows."""

    code = "id_out_of_range"


class ShapeError(RudderError, ValueError):
    """The table's rows have another element type or width than the client believed."""

    code = "shape"


class SharedMemoryError(RudderError, MemoryError):
    """There is no shared memory for the call, or the daemon cannot use it."""

    code = "memory"


class LimitError(RudderError):
    """A limit of the daemon's configuration was reached; the message names it."""

    code = "limit"


class PeerUnavailableError(RudderError):
    """A peer that owns some of the rows cannot be reached, or did not answer in time."""

    code = "peer_unavailable"


class PeerFailedError(RudderError):
    """A peer answered with an error, or with bytes that fail their checksum."""

    code = "peer_failed"


class DrainingError(RudderError):
    """The daemon is shutting down and takes no new work."""

    code = "draining"


class TablesChangedError(RudderError):
    """The daemon serves another dataset than this client knew: make a new client to see its tables and ids."""

    code = "tables_changed"


class StorageError(RudderError, OSError):
    """The daemon cannot read its own shard: the file shrank, or the disk fails or hangs."""

    code = "storage"


class FormatError(RudderError, ValueError):
    """A file that was to be converted is not what its name says, or its parts do not fit together."""

    code = "format"


class InternalError(RudderError):
    """A defect of the daemon; its log says more."""

    code = "internal"
