"""How GraphBolt from DGL 2.4 on drives reads in stages, in small: no wheel of it is served for this interpreter.

Each stage is a pipe over all minibatches, with a buffer of one behind it, and a last pipe waits for the rows. So a minibatch
is in stage 1 only when one more minibatch for each later stage has been sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def buffered(pipe: Iterable[Any]) -> Iterator[Any]:
    """Give each item when the next one has come."""
    kept: list[Any] = []
    for item in pipe:
        kept.append(item)
        if len(kept) > 1:
            yield kept.pop(0)
    yield from kept


def staged(pipe: Iterable[Any], reads: Callable[[Any], dict[str, tuple[Any, Any]]], device: Any) -> Iterator[tuple[Any, dict]]:
    """Minibatches with the rows of several features, read in as many stages as the feature with the most needs.

    Parameters
    ----------
    pipe : iterable
        Minibatches as they are sampled.
    reads : callable
        Name to ``(feature, ids)`` of a minibatch.
    device : torch.device
        Where ids lie.
    """

    def begin(minibatch: Any) -> tuple[Any, dict[str, list[Any]]]:
        wanted = reads(minibatch)
        return minibatch, {
            name: [feature.read_async(ids), feature.read_async_num_stages(device)] for name, (feature, ids) in wanted.items()
        }

    def stage(number: int, items: Iterable[Any]) -> Iterator[Any]:
        for minibatch, handles in items:
            for handle in handles.values():
                assert handle[1] <= number
                if handle[1] == number:
                    value = next(handle[0])
                    handle[:] = [handle[0] if number > 1 else value, number - 1]
            yield minibatch, handles

    first = next(iter(wanted := list(pipe)))
    most = max(feature.read_async_num_stages(device) for feature, _ in reads(first).values())
    items: Iterable[Any] = map(begin, wanted)
    for number in range(most, 0, -1):
        items = buffered(stage(number, items))
    for minibatch, handles in items:
        assert all(left == 0 for _, left in handles.values())
        yield minibatch, {name: handle[0].wait() for name, handle in handles.items()}
