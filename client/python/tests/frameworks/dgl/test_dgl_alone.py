"""What tensors of Rudder and their lookahead do in one process, with a client that has no daemon and without DGL's servers."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_client import FakeClient

import rudder.dgl
import rudder.graphstorm
from rudder.dgl import _tensor


class Tensor:
    """What :class:`rudder.dgl.Ahead` needs of a tensor."""

    def __init__(self) -> None:
        self.client, self.table, self.writes = FakeClient(), "feat", 0

    def offer(self, ids: Any, rows: Any) -> None:
        pass

    def forget(self) -> None:
        pass


class Loader:
    """Minibatches of an epoch, without a length; one of them may fail."""

    def __init__(self, steps: int, fails_at: int | None = None) -> None:
        self.steps, self.fails_at = steps, fails_at

    def __iter__(self) -> Iterator[torch.Tensor]:
        for step in range(self.steps):
            if step == self.fails_at:
                raise OSError("the sampler is gone")
            yield torch.tensor([step])


def ahead(loader: Any, tensor: Tensor, wants: Any = None) -> Any:
    return rudder.dgl.Ahead(loader, [tensor], wants or (lambda batch: {"feat": batch}), horizon=None, overlap=1, progress=True)


def test_an_exception_of_the_loader_comes_at_its_place() -> None:
    seen = []
    with pytest.raises(OSError, match="the sampler is gone"):
        for batch in ahead(Loader(10, fails_at=4), Tensor()):
            seen.append(int(batch))
    assert seen == [0, 1, 2, 3]


def test_an_exception_of_wants_comes_at_its_place() -> None:
    seen = []
    with pytest.raises(ZeroDivisionError):
        for batch in ahead(Loader(10), Tensor(), lambda batch: {"feat": batch + 0 * (1 // (4 - int(batch)))}):
            seen.append(int(batch))
    assert seen == [0, 1, 2, 3]


def test_tables_without_a_tensor_are_named() -> None:
    with pytest.raises(ValueError, match="wants names table 'other'"):
        list(ahead(Loader(10), Tensor(), lambda batch: {"other": batch}))


def test_the_first_whole_epoch_tells_how_many_steps_there_are() -> None:
    tensor = Tensor()
    loader = Loader(5)
    batches = ahead(loader, tensor)
    next(iter(batches))
    for _ in range(3):
        assert [int(batch) for batch in batches] == [0, 1, 2, 3, 4]
    progress = [call[1:] for call in tensor.client.calls if call[0] == "progress"]
    # Epoch 0 was broken off.
    assert progress == [(epoch, step, 5) for epoch in (2, 3) for step in range(5)]


class Connected:
    """A client of a dataset that the import renumbered."""

    def __init__(self, ids: str = "original") -> None:
        self.ids, self.closed = ids, False

    def tables(self) -> dict[str, Any]:
        info = SimpleNamespace(
            vertex_type="_N", edge_type=None, attr="feat", rows=10, shape=(4,), dtype="f32", numpy_dtype=np.dtype("f4"),
            renumbered=True,
        )
        return {"feat": info}


def test_a_client_with_other_ids_than_dgls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = SimpleNamespace(get_size=lambda: 10, get_data_name=lambda name: f"node~_N~{name}", is_node=True)
    store = SimpleNamespace(all_possible_part_policy={"node~_N": policy}, _part_policy={})
    monkeypatch.setattr(_tensor, "get_kvstore", lambda: store)
    with pytest.raises(ValueError, match=r'takes original ids.*rudder\.connect\(ids="dataset"\)'):
        rudder.dgl.DistTensor("feat", client=Connected())  # type: ignore[arg-type]
    assert rudder.dgl.DistTensor("feat", client=Connected("dataset")).shape == (10, 4)  # type: ignore[arg-type]
    data = SimpleNamespace(g=SimpleNamespace(ntypes=["_N"]))
    with pytest.raises(ValueError, match="takes original ids"):
        rudder.graphstorm.attach(data, {"_N": ["feat"]}, client=Connected())  # type: ignore[arg-type]


def test_a_closed_default_client_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tensor, "_clients", {})
    monkeypatch.setattr(_tensor, "connect", lambda **options: Connected(**options))
    first = rudder.dgl.default_client()
    assert rudder.dgl.default_client() is first
    first.closed = True  # type: ignore[misc]
    second = rudder.dgl.default_client()
    assert second is not first
    assert second.ids == "dataset"


def test_one_name_of_a_type_is_a_name() -> None:
    fields = {"paper": "feat", "author": ["feat", "emb"]}
    assert rudder.graphstorm._by_type(fields, []) == {"paper": ["feat"], "author": ["feat", "emb"]}
    assert rudder.graphstorm._by_type("feat", ["paper"]) == {"paper": ["feat"]}
