"""`DistEmbedding`: trainable rows that Rudder holds, for DGL's own sparse optimizers.

It owns nothing but the way from DGL's embedding to a table. Gradients go to the trainers of the node that owns a row, as DGL
sends them; those write the rows. It must never compute an optimizer's step.
"""

from __future__ import annotations

from typing import Any

import dgl  # type: ignore[import-not-found, unused-ignore]
import torch  # type: ignore[import-not-found, unused-ignore]

from .._client import Client
from ._tensor import DistTensor

__all__ = ["DistEmbedding"]


class DistEmbedding(dgl.distributed.DistEmbedding):  # type: ignore[misc, unused-ignore]
    """Trainable rows in a table of Rudder, in the place of DGL's ``DistEmbedding``.

    Use it with ``dgl.distributed.optim.SparseAdagrad`` or ``SparseAdam``. The optimizer's state stays in DGL's servers. The
    rows that training starts with are those of the table; they are not initialised here.

    Before each reading the rows that this node has cached are brought up to date with their owners
    (:meth:`Client.refresh`), as they change at every step.

    Parameters
    ----------
    table : str
        Name of a table of ``f32`` whose rows are vectors.
    client : Client, optional
        As :class:`DistTensor`.

    Raises
    ------
    ValueError
        If the table is not one of ``f32`` vectors; and as :class:`DistTensor`.
    """

    def __init__(self, table: str, *, client: Client | None = None) -> None:
        tensor = DistTensor(table, client=client)
        if tensor.dtype != torch.float32 or len(tensor.shape) != 2:
            raise ValueError(f"{tensor!r} cannot be trained: the optimizers of DGL work on vectors of float32")
        self._tensor = tensor
        self._name = tensor.tensor_name
        self._num_embeddings, self._embedding_dim = tensor.shape
        self._part_policy = tensor.part_policy
        self._trace: list[Any] = []
        self._optm_state = None
        self._rank, self._world_size = 0, 1
        if torch.distributed.is_initialized():
            self._rank, self._world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def __call__(self, idx: torch.Tensor, device: Any = "cpu") -> torch.Tensor:
        """The rows of some ids, which are part of the graph of gradients."""
        if self._world_size > 1:
            self._tensor.client.refresh(table=self._tensor.table)
        return super().__call__(idx, torch.device(device))
