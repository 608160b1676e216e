"""What a trainer notices of a controller that hangs, floods or answers garbage: nothing, or this program shows it.

Starts one cluster of two daemons per kind of endpoint and two whose agent is off, all at once, and measures fetches of cached rows by
turns, so that a busy machine troubles all alike. Every endpoint passes the daemon's probe, with answers that depend on what they are
shown, and is bad from the first decision on that shows a history; the journal must say so, or the program fails. Needs the Python package
``rudder`` and NumPy (the environment that ``tests/run`` makes, ``target/python-tests``, has both):

    target/python-tests/bin/python tests/measure/bad_agent.py [--rounds N] [--fetches N] [--json]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.server
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import rudder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "live"))
from observed import Process, get, own_address, program, run, short_folder, wait_for  # noqa: E402

#: Rows of the table; half of them are the other node's.
ROWS = 40_000
#: Ids of one fetch.
IDS = 1_000
#: Kinds of endpoints; the second ``off`` shows how far two clusters differ that do the same.
KINDS = ("off", "rules", "hang", "flood", "garbage", "off again")
#: What becomes of the decisions of those that are bad.
FATES = {"hang": "late", "flood": "invalid", "garbage": "invalid"}
#: Share of the decisions of which that must be said: while a model is probed again, after five invalid answers, it is
#: not asked.
FATE_SHARE_MIN = 0.5
#: Windows of the agents, and how long they wait for their controller.
WINDOW_MS, DEADLINE_MS = 100, 90
FLOOD = b"x" * 10_000_000
GARBAGE = b"<html>502 Bad Gateway</html>"


def sane(shown: str) -> bytes:
    """What a model of sense answers to what a probe shows it."""
    now = shown.rsplit("Now, window", 1)[-1]
    if "have shifted" in now:
        call = {"tool": "evict", "arguments": {"fraction": 0.25, "forget": False}}
    elif "older than their owner's" in now:
        call = {"tool": "refresh", "arguments": {"max_age_s": 0}}
    else:
        call = {"tool": "hold", "arguments": {}}
    content = json.dumps({"reason": "so it is", "call": call, "expects": "same"})
    return json.dumps({"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": content}}]}).encode()


class Endpoint(http.server.BaseHTTPRequestHandler):
    """A model's endpoint as it should not be: the first part of the path says how. Canaries of a probe have no history."""

    def do_POST(self) -> None:
        """Answer a request for a completion."""
        kind = self.path.split("/")[1]
        request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        shown = request["messages"][-1]["content"]
        if not shown.startswith("Your last decisions:"):
            body = sane(shown)
        elif kind == "hang":
            # Until the daemon hangs up.
            self.connection.recv(1)
            return
        else:
            body = FLOOD if kind == "flood" else GARBAGE
        # A flood is cut short by the daemon, which is what it shall do.
        with contextlib.suppress(ConnectionError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def serve(address: Connection, host: str) -> None:
    """Serve the endpoints in a process of their own, so that what they do does not hold up the trainer's."""
    server = http.server.ThreadingHTTPServer((host, 0), Endpoint)
    server.daemon_threads = True
    address.send(f"{server.server_address[0]}:{server.server_address[1]}")
    server.serve_forever()


class Cluster:
    """Two daemons, the first with an agent that asks a bad endpoint ten times a second."""

    def __init__(self, folder: Path, data: Path, certs: Path, kind: str, endpoint: str) -> None:
        folder.mkdir()
        peers = [own_address() for _ in range(2)]
        self.admin = own_address()
        controller = kind.split()[0] if kind.startswith(("off", "rules")) else "llm"
        self.processes = []
        for node in range(2):
            admin = self.admin if node == 0 else own_address()
            (folder / f"{node}.toml").write_text(
                f"""
                [node]
                index = {node}
                [dataset]
                path = "{data}"
                [local]
                socket = "{folder / f"{node}.sock"}"
                [cache]
                capacity = {ROWS // 2}
                [peers]
                listen = "{peers[node]}"
                authority = "{certs / "ca.pem"}"
                certificate = "{certs / f"node-{node}.pem"}"
                key = "{certs / f"node-{node}.key"}"
                [peers.addresses]
                0 = "{peers[0]}"
                1 = "{peers[1]}"
                [agent]
                controller = "{controller if node == 0 else "off"}"
                llm_base_url = "http://{endpoint}/{kind.split()[0]}/v1"
                llm_model = "bad"
                llm_timeout_ms = {DEADLINE_MS}
                llm_reprobe_ms = 1000
                window_ms = {WINDOW_MS}
                deadline_ms = {DEADLINE_MS}
                decisions_max = 1000000
                [admin]
                listen = "{admin}"
                """
            )
            config = str(folder / f"{node}.toml")
            self.processes.append(Process([program("rudderd"), "--config", config], folder / f"{node}.log"))
            wait_for(f"{admin} ready", lambda admin=admin: get(f"http://{admin}/readyz"))
        if kind in FATES:
            wait_for(f"{kind}: a model that passes the probe", lambda: self.ask("status")["agent"]["llm"]["state"] == "healthy")
        self.client = rudder.connect(str(folder / "0.sock"))
        every = np.arange(ROWS // 2, ROWS)
        self.client.warm("feat", every)
        for _ in range(3):
            self.client.fetch("feat", every)

    def ask(self, path: str) -> Any:
        """What the HTTP interface of the first daemon answers."""
        return json.loads(get(f"http://{self.admin}/v1/{path}"))

    def measure(self, draw: np.random.Generator, fetches: int) -> list[float]:
        """Microseconds of each of `fetches` fetches of cached rows."""
        took = []
        for ids in draw.integers(ROWS // 2, ROWS, (fetches, IDS)):
            begin = time.perf_counter()
            self.client.fetch("feat", ids)
            took.append(1e6 * (time.perf_counter() - begin))
        return took


def fates(kind: str, decisions: list[dict[str, Any]]) -> dict[str, int]:
    """How often the controller decided, and how often it did not and why; fails where that is not what was to be measured."""
    # The first windows have no history to show, and are answered by sense.
    told = collections.Counter(decision.get("fallback", "itself").split(":")[0] for decision in decisions[2:])
    if kind in FATES and told[FATES[kind]] < FATE_SHARE_MIN * sum(told.values()):
        raise RuntimeError(f"{kind}: most decisions should be {FATES[kind]}, and were {dict(told)}")
    if kind in FATES and told["itself"] > 0:
        raise RuntimeError(f"{kind}: a bad answer was taken for a decision: {dict(told)}")
    return dict(sorted(told.items()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--fetches", type=int, default=1000, help="per kind and round")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    told, tells = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(tells, own_address().split(":")[0]), daemon=True)
    server.start()
    endpoint = told.recv()
    draw = np.random.default_rng(1)
    with short_folder() as folder:
        np.save(folder / "feat.npy", draw.random((ROWS, 128), dtype=np.float32))
        data, certs = folder / "data", folder / "certs"
        run("rudder", "import", "npy", "--out", data, "--parts", "2", "--table", f"feat={folder / 'feat.npy'}", "--json")
        run("rudder", "certs", "init", "--out", certs, "--json")
        for node in range(2):
            run("rudder", "certs", "issue", "--authority", certs, "--node", str(node), "--json")
        clusters: dict[str, Cluster] = {}
        try:
            for kind in KINDS:
                clusters[kind] = Cluster(folder / kind.replace(" ", "-"), data, certs, kind, endpoint)
            quantiles: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
            for turn in range(arguments.rounds):
                for at in range(len(KINDS)):
                    kind = KINDS[(at + turn) % len(KINDS)]
                    took = sorted(clusters[kind].measure(draw, arguments.fetches))
                    quantiles[kind].append((took[len(took) // 2], took[len(took) * 99 // 100]))
            results = {}
            for kind in KINDS:
                decisions = clusters[kind].ask("decisions?limit=1000000")
                # Held against both `off` in the same round: the machine is as busy for all.
                bases = [[sum(both) / 2 for both in zip(*pair)] for pair in zip(quantiles["off"], quantiles["off again"])]
                ratios = [[mine / off for mine, off in zip(pair, base)] for pair, base in zip(quantiles[kind], bases)]
                results[kind] = {
                    "p50_us": round(statistics.median(pair[0] for pair in quantiles[kind]), 1),
                    "p99_us": round(statistics.median(pair[1] for pair in quantiles[kind]), 1),
                    "p50_of_off": round(statistics.median(ratio[0] for ratio in ratios), 3),
                    "p99_of_off": round(statistics.median(ratio[1] for ratio in ratios), 3),
                    "decisions": len(decisions),
                    "told": fates(kind, decisions),
                }
        finally:
            for cluster in clusters.values():
                for process in cluster.processes:
                    process.stop()
            server.terminate()
    if arguments.json:
        print(json.dumps({"ids": IDS, "rounds": arguments.rounds, "fetches": arguments.fetches, "kinds": results}))
        return
    print("| controller | p50 µs | p99 µs | p50 of off | p99 of off | decisions | whose |\n|---|---|---|---|---|---|---|")
    for kind, result in results.items():
        whose = ", ".join(f"{count} {fate}" for fate, count in result.pop("told").items()) or "–"
        print(f"| {kind} | " + " | ".join(str(value) for value in result.values()) + f" | {whose} |")


if __name__ == "__main__":
    main()
