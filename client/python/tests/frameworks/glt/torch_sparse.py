"""The one thing that GLT takes from torch-sparse, whose wheels are not served: edges as pairs become rows of a matrix."""

from __future__ import annotations

from typing import Any

import torch


class SparseTensor:
    """A sparse matrix, sorted by rows; it has what GLT asks its ``storage`` for.

    Parameters
    ----------
    row, col : torch.Tensor
        Of each element.
    value : torch.Tensor, optional
        Its value.
    sparse_sizes : (int, int)
        Rows and columns.
    """

    def __init__(self, row: torch.Tensor, col: torch.Tensor, value: Any, sparse_sizes: tuple[int, int]) -> None:
        order = torch.argsort(row * sparse_sizes[1] + col, stable=True)
        counts = torch.bincount(row, minlength=sparse_sizes[0])
        self._rowptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        self._col = col[order]
        self._value = None if value is None else value[order]
        self.storage = self

    def rowptr(self) -> torch.Tensor:
        """Where each row begins."""
        return self._rowptr

    def col(self) -> torch.Tensor:
        """Columns of the elements."""
        return self._col

    def value(self) -> Any:
        """Values of the elements."""
        return self._value
