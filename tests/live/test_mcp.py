"""An agent of others steers a real daemon: the official client of the Model Context Protocol reads the state and grows the cache."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
from observed import TOKEN, Blocks, get, short_folder


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


def session(admin: str, token: str, calls: list[tuple[str, dict[str, Any]]]) -> tuple[list[str], list[Any]]:
    """The names of the tools that a daemon offers, and what it answers to calls.

    Parameters
    ----------
    admin
        Address of the daemon's HTTP interface.
    token
        Its bearer token.
    calls
        Names of tools with their arguments.
    """
    try:
        import httpx2
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client
    except ImportError:
        if os.environ.get("RUDDER_LIVE") == "required":
            raise
        pytest.skip("the MCP client is missing: pip install 'mcp>=2,<3'")

    async def talk() -> tuple[list[str], list[Any]]:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(headers=headers) as http:
            async with streamable_http_client(f"http://{admin}/mcp", http_client=http) as streams, ClientSession(*streams[:2]) as client:
                hello = await client.initialize()
                print(f"initialize: {hello.server_info.name} {hello.server_info.version}, protocol {hello.protocol_version}")
                tools = [tool.name for tool in (await client.list_tools()).tools]
                print(f"tools/list: {', '.join(tools)}")
                answers = []
                for name, arguments in calls:
                    answer = await client.call_tool(name, arguments)
                    text = answer.content[0].text
                    print(f"tools/call: {name} {json.dumps(arguments)} -> {'error: ' if answer.is_error else ''}{text[:300]}")
                    answers.append(answer)
                return tools, answers

    return asyncio.run(asyncio.wait_for(talk(), 60))


def test_an_agent_reads_the_state_and_grows_the_cache(daemons: Blocks) -> None:
    """What the agent is told is what the daemon then has."""
    calls = [
        ("status", {}),
        ("grow", {"rows": 3000, "table": "feat"}),
        ("status", {}),
        ("decisions", {"limit": 1}),
        ("evict", {"fraction": 7}),
    ]
    tools, (before, grown, after, decisions, refused) = session(daemons.admin[0], TOKEN, calls)
    assert {"status", "decisions", "grow", "evict", "refresh", "warm", "hold"} == set(tools)
    assert before.structured_content["tables"][0]["capacity_rows"] == 2000
    done = grown.structured_content["tables"][0]
    assert (done["before_rows"], done["after_rows"]) == (2000, 3000)
    assert after.structured_content["tables"][0]["capacity_rows"] == 3000
    assert "decisions" in decisions.structured_content
    assert refused.is_error and "`fraction` is 7" in refused.content[0].text


def test_a_stranger_is_turned_away(daemons: Blocks) -> None:
    """Without the token there is no session."""
    with pytest.raises(Exception):
        session(daemons.admin[0], "guess", [])
    with pytest.raises(urllib.error.HTTPError) as error:
        get(f"http://{daemons.admin[0]}/mcp", "guess", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert error.value.code == 401
