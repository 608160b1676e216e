"""Tensors in, tensors out, over the same memory."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from cluster import Daemon, Source
from test_memory import in_arena

import rudder
from rudder._arrays import as_ids

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


def bits(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as NumPy has it."""
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


@pytest.mark.parametrize("table", list(DTYPES))
def test_rows_into_tensors(client: rudder.Client, source: Source, table: str) -> None:
    ids = torch.tensor([5, 1, 4_000])
    width = client.tables()[table].width
    out = torch.zeros((3, width), dtype=DTYPES[table])
    assert client.fetch(table, ids, out=out) is out
    source.check(table, ids.numpy(), bits(out))
    wide = torch.zeros((3, width + 4), dtype=DTYPES[table])
    assert client.fetch_async(table, ids.tolist(), out=wide[:, 2:-2]).wait().data_ptr() == wide[:, 2:-2].data_ptr()
    source.check(table, ids.numpy(), bits(wide[:, 2:-2].contiguous()))
    whole = torch.zeros((source.ROWS, width), dtype=DTYPES[table])
    assert client.fetch(table, None, out=whole) is whole
    source.check(table, range(source.ROWS), bits(whole))
    with pytest.raises(TypeError, match="rows are never converted"):
        client.fetch(table, ids, out=torch.zeros((3, width), dtype=torch.complex64))


def test_rows_into_a_parameter(client: rudder.Client, source: Source) -> None:
    weights = torch.nn.Parameter(torch.zeros(2, 17))
    client.fetch("f32", [1, 2], out=weights)
    source.check("f32", [1, 2], weights.detach().numpy())
    assert weights.grad_fn is None


def test_masks_and_narrow_ids_in_tensors(client: rudder.Client, source: Source) -> None:
    mask = torch.zeros(source.ROWS, dtype=torch.bool)
    mask[[3, 5_000]] = True
    for ids in (mask, torch.tensor([3, 5_000], dtype=torch.int32), torch.tensor([0, 3, 9, 5_000])[1::2]):
        rows = client.fetch("f32", ids)
        assert isinstance(rows, torch.Tensor)
        source.check("f32", [3, 5_000], rows.numpy())
    assert np.shares_memory(as_ids(narrow := torch.arange(5, dtype=torch.int32))[0], narrow.numpy())
    both = client.fetch({"f32": mask, "u8": [1]})
    assert isinstance(both["f32"], torch.Tensor)
    assert isinstance(both["u8"], np.ndarray)


def test_a_device_makes_tensors_whatever_the_ids_are(client: rudder.Client, source: Source) -> None:
    for rows in (
        client.fetch("bf16", [1, 2], device="cpu"),
        client.fetch_async("bf16", np.array([1, 2]), device=torch.device("cpu")).wait(),
        client.fetch(["bf16"], slice(1, 3), device="cpu")["bf16"],
    ):
        assert rows.dtype == torch.bfloat16
        source.check("bf16", [1, 2], bits(rows))


def test_a_batch_of_tensors_gives_tensors(client: rudder.Client, source: Source) -> None:
    batch = client.announce("f32", torch.tensor([1, 2]))
    rows = client.fetch(pickle.loads(pickle.dumps(batch)))
    assert isinstance(rows, torch.Tensor)
    source.check("f32", [1, 2], rows.numpy())


def test_owners_of_tensors_can_index(client: rudder.Client, source: Source) -> None:
    owners = client.owner("f32", torch.tensor([0, source.ROWS - 1]))
    assert owners.dtype == torch.int64
    assert owners.tolist() == [0, 1]


_FETCH = """
import pickle, sys
import rudder
batch = pickle.load(sys.stdin.buffer)
assert "torch" not in sys.modules
client = rudder.connect(sys.argv[1], trainer=batch.trainer)
rows = client.fetch(batch)
assert rows.dtype is sys.modules["torch"].float32 and len(rows) == 100
"""


def test_a_batch_of_tensors_is_fetched_where_torch_was_not_imported(daemons: list[Daemon]) -> None:
    batch = pickle.dumps(daemons[0].connect().announce("f32", torch.arange(100)))
    command = [sys.executable, "-c", _FETCH, str(daemons[0].socket)]
    done = subprocess.run(command, input=batch, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
