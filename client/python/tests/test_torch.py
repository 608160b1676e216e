"""Tensors in, tensors out, over the same memory."""

from __future__ import annotations

import numpy as np
import pytest
from cluster import Daemon, Source
from test_memory import in_arena

import rudder

torch = pytest.importorskip("torch")

DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f64": torch.float64,
    "i64": torch.int64,
    "u8": torch.uint8,
}


@pytest.mark.parametrize("table", list(DTYPES))
def test_tensors_over_shared_memory(client: rudder.Client, source: Source, table: str) -> None:
    ids = torch.randint(0, source.ROWS, (1_000,))
    for rows in (client.fetch(table, ids), client.fetch_async(table, ids).wait()):
        assert rows.dtype == DTYPES[table]
        array = rows.view(torch.int16).numpy().view(np.uint16) if table == "bf16" else rows.numpy()
        assert in_arena(array)
        source.check(table, ids.numpy(), array)


def test_a_tensor_keeps_its_rows(client: rudder.Client, source: Source) -> None:
    kept = client.fetch("bf16", torch.arange(100))[10:]
    for _ in range(5):
        client.fetch("bf16", torch.arange(100, 200))
    source.check("bf16", np.arange(10, 100), kept.view(torch.int16).numpy().view(np.uint16))


@pytest.mark.parametrize("ids", [torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1j])])
def test_tensors_that_are_no_ids(client: rudder.Client, ids: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="integers"):
        client.fetch("f32", ids)


class _Rows(torch.utils.data.Dataset):  # type: ignore[misc, name-defined]
    """Batches of rows, fetched by whichever worker is asked."""

    def __init__(self, client: rudder.Client) -> None:
        self.client = client

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.arange(index * 100, index * 100 + 100)
        return ids, self.client.fetch("f32", ids)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(daemons: list[Daemon], source: Source, method: str) -> None:
    dataset = _Rows(daemons[0].connect())
    source.check("f32", [1], dataset.client.fetch("f32", [1]))
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context=method, persistent_workers=False
    )
    seen = 0
    for ids, rows in loader:
        source.check("f32", ids.numpy(), rows.numpy())
        seen += 1
    assert seen == len(dataset)
