"""Announced minibatches: the loader yields every minibatch with its rows, and the daemon used what was announced."""

from __future__ import annotations

import numpy as np
import pytest
from cluster import Daemon, Source

import rudder


def batches(source: Source, steps: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.choice(len(source.arrays["f32"]), 200, replace=False) for _ in range(steps)]


@pytest.mark.parametrize("horizon", [0, 3, None])
def test_a_loader_yields_every_batch_with_its_rows(
    own_daemons: list[Daemon], source: Source, horizon: int | None
) -> None:
    client, epoch = own_daemons[0].connect(), batches(source)
    loader = rudder.Loader(epoch, "f32", client=client, epochs=3, horizon=horizon)
    assert len(loader) == 36
    seen = 0
    for number, (ids, rows) in enumerate(loader):
        assert ids is epoch[number % 12]
        source.check("f32", ids, rows)
        seen += 1
    assert seen == 36
    table = next(table for table in client.status()["tables"] if table["name"] == "f32")
    announced = table["lookahead"]["announced_batches"]
    assert announced == (0 if horizon == 0 else 36)
    assert table["lookahead"]["expired_batches"] == 0
    assert (table["fetched"]["staged"] > 0) == (announced > 0)


def test_batches_may_be_anything_that_has_ids(client: rudder.Client, source: Source) -> None:
    iterable = ({"ids": ids, "label": number} for number, ids in enumerate(batches(source, 4)))
    loader = rudder.Loader(iterable, "f32", client=client, ids=lambda batch: batch["ids"], horizon=2)
    with pytest.raises(TypeError, match="steps_per_epoch"):
        len(loader)
    for number, (batch, rows) in enumerate(loader):
        assert batch["label"] == number
        source.check("f32", batch["ids"], rows)


def test_wrong_announcements_name_the_culprit(client: rudder.Client) -> None:
    with pytest.raises(rudder.IdOutOfRangeError, match="id 999999999"):
        client.announce("f32", [1, 999999999], 0)
    with pytest.raises(ValueError, match="step is -1"):
        client.announce("f32", [1], -1)
    with pytest.raises(rudder.UnknownTableError, match="nothing"):
        client.announce("nothing", [1], 0)
    with pytest.raises(ValueError, match="horizon is -1"):
        rudder.Loader([], "f32", client=client, horizon=-1)
