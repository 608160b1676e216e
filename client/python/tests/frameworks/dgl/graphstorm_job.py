"""What runs on both hosts in the test of GraphStorm: a server of DistDGL, or a trainer that reads by GraphStorm's own functions.

    python graphstorm_job.py WHOLE.json SOCKET0,SOCKET1 FOLDER

The servers have a stripped partition. The trainer of host N writes "ok", or what went wrong, to FOLDER/checkN.json.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from unittest.mock import MagicMock

# GraphStorm's construction of graphs wants them at import; nothing here does.
_MITRA = "autogluon.tabular.models.mitra._internal"
for _name in ["data.dataset_finetune", "config.enums", "core.trainer_finetune"]:
    _parts = f"{_MITRA}.{_name}".split(".")
    for _end in range(1, len(_parts) + 1):
        sys.modules.setdefault(".".join(_parts[:_end]), MagicMock())

import dgl
import numpy as np
import torch
from graphstorm.dataloading import GSgnnData, GSgnnLinkPredictionDataLoader, GSgnnNodeDataLoader
from graphstorm.dataloading.dataset import prepare_batch_edge_input, prepare_batch_input

import rudder
import rudder.graphstorm
from conftest import rows_of  # the folder of this script

CITES, WRITES = ("paper", "cites", "paper"), ("author", "writes", "paper")


def check(data: GSgnnData, client: rudder.Client, rows: dict[str, np.ndarray]) -> None:
    """Read by what training, inference and embedding call."""
    g = data.g
    assert "feat" not in g.nodes["paper"].data, "the servers have the feature"
    before = set(g.nodes["paper"].data)
    try:
        rudder.graphstorm.attach(data, {"paper": ["feet"]}, client=client)
        raise AssertionError("no error")
    except rudder.UnknownTableError as error:
        assert "did you mean `paper.feat`" in str(error), error
    assert set(g.nodes["paper"].data) == before
    fields = {"paper": ["feat"], "author": ["feat"], CITES: ["weight"]}
    tensors = rudder.graphstorm.attach(data, fields, client=client)
    assert set(tensors) == {"paper.feat", "author.feat", "paper:cites:paper.weight"}
    assert data.has_node_feats("paper") and data.has_edge_feats(CITES) and not data.has_edge_feats(WRITES)

    def same(table: str, ids: torch.Tensor, found: torch.Tensor) -> None:
        expected = rows[table][ids.numpy()]
        assert found.numpy().reshape(len(ids), -1).view(np.uint8).tobytes() == expected.tobytes(), table

    nodes = {"paper": torch.arange(torch.distributed.get_rank() * 400, torch.distributed.get_rank() * 400 + 200)}
    loader = GSgnnNodeDataLoader(data, nodes, [3, 4], 50, label_field="year", node_feats=data.node_feat_field)
    loader = rudder.graphstorm.ahead(loader)
    made = []
    client_fetch = rudder.Client.fetch
    rudder.Client.fetch = lambda self, *asked, **options: made.append(asked[0]) or client_fetch(self, *asked, **options)
    for _ in range(2):
        steps = 0
        for input_nodes, seeds, blocks in loader:
            features = prepare_batch_input(g, input_nodes, feat_field=loader.node_feat_fields)
            for kind, found in features.items():
                same(f"{kind}.feat", input_nodes[kind], found)
            # Labels stay with DistDGL.
            same("paper.year", seeds["paper"], data.get_node_feats(seeds, "year")["paper"])
            steps += 1
        assert steps == len(loader) == 4
    assert not made, made
    rudder.Client.fetch = client_fetch
    ids = torch.arange(10, 300)
    same("paper:cites:paper.weight", ids, prepare_batch_edge_input(g, {CITES: ids}, feat_field={CITES: ["weight"]})[CITES])
    links = GSgnnLinkPredictionDataLoader(
        data, {CITES: torch.arange(100)}, [3], 50, 2, node_feats=data.node_feat_field, train_task=False
    )
    for input_nodes, _, _, _ in rudder.graphstorm.ahead(links, progress=False):
        features = prepare_batch_input(g, input_nodes, feat_field=links.node_feat_fields)
        same("paper.feat", input_nodes["paper"], features["paper"])


def main() -> None:
    """Be a server, or check."""
    whole, sockets, folder = Path(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[3])
    dgl.distributed.initialize(os.environ["DGL_IP_CONFIG"])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    data = GSgnnData(os.environ["DGL_CONF_PATH"])
    client = rudder.connect(sockets[rank], ids="dataset")
    rows = rows_of(whole)
    became = "ok"
    try:
        check(data, client, rows)
    except Exception:
        became = traceback.format_exc()
    (folder / f"check{rank}.json").write_text(json.dumps(became))
    torch.distributed.barrier()


if __name__ == "__main__":
    main()
