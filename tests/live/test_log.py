"""The log of real daemons: both sides log a slow fetch with the same number, its spans meet in a collector, the level
changes while they run, and SIGHUP reads the configuration again.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from observed import ROWS, TOKEN, Blocks, get, run, short_folder, wait_for


#: Requests that the collector got.
COLLECTED: list[dict[str, Any]] = []


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans as a collector of OpenTelemetry does."""

    def do_POST(self) -> None:
        """Keep what came."""
        assert self.path == "/v1/traces"
        COLLECTED.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def spans() -> list[dict[str, Any]]:
    """All spans that were collected, each with the node that sent it."""
    found = []
    for resource in (resource for request in COLLECTED for resource in request["resourceSpans"]):
        attributes = {attribute["key"]: attribute["value"]["stringValue"] for attribute in resource["resource"]["attributes"]}
        found += [span | {"node": attributes["service.instance.id"]} for scope in resource["scopeSpans"] for span in scope["spans"]]
    return found


@pytest.fixture(scope="module")
def daemons() -> Iterator[Blocks]:
    """Two daemons to whom everything is slow, and a collector that gets every span of theirs."""
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    patch = pytest.MonkeyPatch()
    settings = {"LOG__SLOW_FETCH_MS": "1", "PEERS__SLOW_ANSWER_MS": "1", "LOG__FORMAT": "json", "LOG__OTLP_SAMPLE": "1.0"}
    settings["LOG__OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector.server_address[1]}"
    for name, value in settings.items():
        patch.setenv(f"RUDDER_{name}", value)
    with short_folder() as folder:
        blocks = Blocks(folder / "blocks")
        try:
            blocks.wait_until_ready()
            yield blocks
        finally:
            blocks.stop()
            patch.undo()
            collector.shutdown()
            collector.server_close()


def lines(log: Path, message: str) -> list[dict[str, Any]]:
    """The fields of all lines of a log that say this."""
    parsed = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return [line["fields"] for line in parsed if line["fields"].get("message") == message]


def test_a_slow_fetch_has_one_number_on_both_sides(daemons: Blocks) -> None:
    """The trainer's node says where the time went, the owner says how much of it was its own."""
    try:
        import rudder
    except ImportError:
        if os.environ.get("RUDDER_LIVE") == "required":
            raise
        pytest.skip("the Python package is missing: tests/run builds it")
    client = rudder.connect(str(daemons.folder / "0.sock"))
    logs = [daemons.folder / f"{node}.log" for node in range(2)]

    def told() -> tuple[dict[str, Any], dict[str, Any]] | None:
        client.fetch("feat", list(range(ROWS // 2, ROWS)))
        client.grow(rows=10)
        client.grow(rows=2000)
        owner = {line["request"]: line for line in lines(logs[1], "slow answer to a peer")}
        return next(((line, owner[line["request"]]) for line in lines(logs[0], "slow fetch") if line["request"] in owner), None)

    fetch, answer = wait_for("a fetch that both sides tell of", told)
    assert len(fetch["request"]) == 16 and int(fetch["request"], 16) > 0
    assert fetch["table"] == "feat" and fetch["rows"] == ROWS // 2 and fetch["total_ms"] >= 1
    assert "rows of peer 1 in" in fetch["peers"], fetch
    assert fetch["wait_ms"] <= fetch["total_ms"] + 1
    assert answer["peer"] == 0 and answer["rows"] > 0

    def trace() -> dict[str, dict[str, Any]] | None:
        """The spans of that fetch by name; its identifier ends with the number that the logs say."""
        found = {span["name"]: span for span in spans() if span["traceId"].endswith(fetch["request"])}
        return found if {"fetch", "wait", "ask peer", "answer"} <= set(found) else None

    trace = wait_for("the spans of both sides", trace)
    assert (trace["fetch"]["node"], trace["answer"]["node"]) == ("node-0", "node-1")
    assert {trace[name]["parentSpanId"] for name in ("wait", "ask peer", "answer")} == {trace["fetch"]["spanId"]}
    assert "parentSpanId" not in trace["fetch"]
    for span in trace.values():
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])


def test_the_level_changes_while_the_daemon_runs(daemons: Blocks) -> None:
    """By the command line, and back by SIGHUP, which reads the file again."""
    admin, folder = daemons.admin[0], daemons.folder
    log = folder / "0.log"

    def level() -> str:
        return json.loads(get(f"http://{admin}/v1/log", TOKEN))["level"]

    def command(*arguments: str) -> str:
        return run("rudder", "log", *arguments, "--admin", f"http://{admin}", "--token-file", folder / "token")

    assert command().strip() == "info" == level()
    assert command("info,rudder_daemon::serve=debug").strip() == level() == "info,rudder_daemon::serve=debug"
    with pytest.raises(Exception):
        command("loud")
    config = folder / "0.toml"
    config.write_text(config.read_text().replace("drain_ms = 1000", "drain_ms = 1500"))
    daemons.processes[0].child.send_signal(signal.SIGHUP)
    wait_for("the level of the file", lambda: level() == "info")
    waiting = wait_for("what needs a restart", lambda: lines(log, "the configuration was reloaded; these keys need a restart"))
    assert waiting[-1]["keys"] == "node.drain_ms"
    config.write_text(config.read_text().replace("drain_ms = 1500", "drain_ms = -1"))
    daemons.processes[0].child.send_signal(signal.SIGHUP)
    refused = wait_for("a refusal", lambda: lines(log, "the configuration was not reloaded"))
    assert "drain_ms" in refused[-1]["error"]
    assert get(f"http://{admin}/readyz").strip() == "ready"
