"""An agent of others steers a real daemon: the official client of the Model Context Protocol reads the state and grows the cache.

What they say to each other is written to ``target/live/mcp.txt``.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
from observed import REPOSITORY, TOKEN, Blocks, get, short_folder

#: What was said, for the documentation.
TRANSCRIPT = REPOSITORY / "target" / "live" / "mcp.txt"


@pytest.fixture(scope="module")
def daemons() -> Iterator[Blocks]:
    """Two daemons that demand a token."""
    with short_folder() as folder:
        blocks = Blocks(folder / "blocks")
        try:
            blocks.wait_until_ready()
            yield blocks
        finally:
            blocks.stop()


def client_modules() -> tuple[Any, Any, Any]:
    """The official client, the HTTP client that it uses, and its transport; without them the test is skipped, or fails where they must
    be there.
    """
    try:
        import httpx2
        import mcp
        from mcp.client.streamable_http import streamable_http_client
    except ImportError:
        if os.environ.get("RUDDER_LIVE") == "required":
            raise
        pytest.skip("the MCP client is missing: pip install 'mcp>=2,<3'")
    return mcp, httpx2, streamable_http_client


def session(
    admin: str, token: str, calls: list[tuple[str, dict[str, Any]]], statuses: list[int] | None = None
) -> tuple[list[str], list[Any], list[str]]:
    """The names of the tools that a daemon offers, what it answers to calls, and all of it as lines.

    Parameters
    ----------
    admin
        Address of the daemon's HTTP interface.
    token
        Its bearer token.
    calls
        Names of tools with their arguments.
    statuses
        Gets the HTTP status of each answer.
    """
    mcp, httpx2, streamable_http_client = client_modules()

    async def note(answer: Any) -> None:
        if statuses is not None:
            statuses.append(answer.status_code)

    async def talk() -> tuple[list[str], list[Any], list[str]]:
        headers, hooks = {"Authorization": f"Bearer {token}"}, {"response": [note]}
        async with httpx2.AsyncClient(headers=headers, event_hooks=hooks) as http:
            async with streamable_http_client(f"http://{admin}/mcp", http_client=http) as streams, mcp.ClientSession(*streams[:2]) as client:
                hello = await client.initialize()
                info = hello.server_info
                lines = [f"initialize -> {info.name} {info.version}, protocol {hello.protocol_version}"]
                tools = [tool.name for tool in (await client.list_tools()).tools]
                lines.append(f"tools/list -> {', '.join(tools)}")
                answers = []
                for name, arguments in calls:
                    answer = await client.call_tool(name, arguments)
                    lines.append(f"tools/call {name} {json.dumps(arguments)}")
                    lines.append(f"  -> {'error: ' if answer.is_error else ''}{answer.content[0].text}")
                    answers.append(answer)
                return tools, answers, lines

    return asyncio.run(asyncio.wait_for(talk(), 60))


def test_an_agent_reads_the_state_and_grows_the_cache(daemons: Blocks) -> None:
    """The daemon has what the agent was answered."""
    calls = [
        ("status", {}),
        ("grow", {"rows": 3000, "table": "feat"}),
        ("status", {}),
        ("decisions", {"limit": 1}),
        ("evict", {"fraction": 7}),
    ]
    tools, (before, grown, after, decisions, refused), lines = session(daemons.admin[0], TOKEN, calls)
    TRANSCRIPT.parent.mkdir(parents=True, exist_ok=True)
    TRANSCRIPT.write_text("\n".join(lines) + "\n")
    assert {"status", "decisions", "grow", "evict", "refresh", "warm", "hold"} == set(tools)
    assert before.structured_content["tables"][0]["capacity_rows"] == 2000
    done = grown.structured_content["tables"][0]
    assert (done["before_rows"], done["after_rows"]) == (2000, 3000)
    assert after.structured_content["tables"][0]["capacity_rows"] == 3000
    assert "decisions" in decisions.structured_content
    assert refused.is_error and "`fraction` is 7" in refused.content[0].text


def test_a_stranger_is_turned_away(daemons: Blocks) -> None:
    """Without the token there is no session: the daemon says 401, and the client that its first request was not taken."""
    mcp, *_ = client_modules()
    statuses: list[int] = []
    # The client's tasks end together, in a group.
    with pytest.RaisesGroup(mcp.MCPError, flatten_subgroups=True, allow_unwrapped=True):
        session(daemons.admin[0], "guess", [], statuses)
    assert statuses == [401], "initialize is refused, and nothing else is sent"
    with pytest.raises(urllib.error.HTTPError) as error:
        get(f"http://{daemons.admin[0]}/mcp", "guess", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert error.value.code == 401
