"""Fetches in flight, which may be waited for, looked at, or awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

__all__ = ["Pending"]


class Pending:
    """A fetch in flight, made by :meth:`Client.fetch_async`. Dropping it gives the rows up.

    In a coroutine, ``rows = await pending`` waits without holding the event loop up: a thread of its default executor waits
    for the daemon. Cancelling gives the rows up; the thread ends when the daemon has answered, at the latest after the
    client's ``timeout_s``.
    """

    __slots__ = ("_deliver", "_source")

    def __init__(self, source: Any, deliver: Callable[[Any], Any]) -> None:
        self._source = source
        self._deliver = deliver

    def done(self) -> bool:
        """Whether :meth:`wait` would return at once, with rows or an error. This never blocks.

        Returns
        -------
        bool
        """
        done: bool = self._source.done()
        return done

    def wait(self) -> Any:
        """Wait for the rows.

        Returns
        -------
        numpy.ndarray or torch.Tensor, or dict of str to these
            As :meth:`Client.fetch`.

        Raises
        ------
        RudderError
            As :meth:`Client.fetch`.
        RuntimeError
            If the rows were taken before.
        """
        return self._deliver(self._source.wait())

    def __await__(self) -> Generator[Any, None, Any]:
        source = self._source
        if source.done():
            return self.wait()
        came = yield from asyncio.get_running_loop().run_in_executor(None, source.wait).__await__()
        return self._deliver(came)
