"""The engine under loaders and adapters, with a client that only notes what it is asked: order, bounds, and giving up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_client import FakeClient, Rows
from test_processes import in_child

import rudder
from rudder._prefetcher import Prefetcher


def wants(number: int, *tables: str) -> dict[str, np.ndarray]:
    return {table: np.array([number, 7]) for table in tables or ("x",)}


def run(ahead: Prefetcher, batches: int) -> Iterator[tuple[int, Any]]:
    """The loop of an adapter."""
    for number in range(batches):
        ahead.push(wants(number), number)
        while not ahead.hungry():
            yield ahead.pop()
    while ahead:
        yield ahead.pop()


def test_each_fetch_is_sent_one_minibatch_ahead() -> None:
    client = FakeClient(asked=2)
    popped = [(number, int(rows["x"].ids[0])) for number, rows in run(Prefetcher(client), 5)]
    assert popped == [(number, number) for number in range(5)]
    assert client.calls == [
        ("announce", 0),
        ("announce", 1),
        ("announce", 2),
        ("announce", 3),
        ("send", 0),
        ("send", 1),
        ("wait", 0),
        ("announce", 4),
        ("send", 2),
        ("wait", 1),
        ("send", 3),
        ("wait", 2),
        ("send", 4),
        ("wait", 3),
        ("wait", 4),
    ]
    assert client.steps == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize("horizon", [0, 2, None])
def test_what_waits_and_what_is_alive_is_bounded(overlap: int, horizon: int | None) -> None:
    client = FakeClient(asked=4)
    ahead = Prefetcher(client, horizon=horizon, overlap=overlap)
    longest = 0
    for number, rows in run(ahead, 20):
        longest = max(longest, len(ahead) + 1)
        assert int(rows["x"].ids[0]) == number
        del rows
    assert longest == 1 + overlap + (4 if horizon is None else horizon)
    # What the trainer has, what it gets, and what is in flight.
    assert client.alive_max <= 2 + overlap
    counts = client.counts()
    assert counts["announce"] == (0 if horizon == 0 else 20)
    assert (counts["fetch"], counts["send"]) == ((20, 0) if overlap == 0 else (0, 20))


def test_several_tables_are_one_minibatch() -> None:
    client = FakeClient()
    with Prefetcher(client) as ahead:
        ahead.push(wants(1, "x", "y"), "both")
        ahead.push((["x", "y"], np.array([2, 7])), "list")
        ahead.push(("x", np.array([3, 7])), "pair")
        ahead.push({}, "nothing")
        both, rows = ahead.pop()
        assert both == "both"
        assert {table: int(of.ids[0]) for table, of in rows.items()} == {"x": 1, "y": 1}
        assert set(ahead.pop()[1]) == {"x", "y"}
        _, rows = ahead.pop()
        assert isinstance(rows, Rows)
        assert ahead.pop() == ("nothing", {})
        with pytest.raises(IndexError, match="no minibatch waits"):
            ahead.pop()
    # One announcement and one fetch for all tables of a minibatch; none for what needs no rows.
    assert client.steps == [0, 1, 2]
    assert client.named == 3
    for bad in (np.array([1]), ("x",), (3, np.array([1])), "x", None):
        with pytest.raises(TypeError, match=r"must be a mapping of tables to ids, or a pair \(table, ids\)"):
            Prefetcher(client).push(bad)


def test_an_announcement_that_does_not_get_through_is_made_later_and_holds_nothing_up() -> None:
    client = FakeClient(asked=3)
    client.unheard = {2: rudder.LimitError("no room"), 4: rudder.ConnectionLostError("gone")}
    popped = [number for number, _ in run(Prefetcher(client), 6)]
    assert popped == list(range(6))
    calls = [call for call in client.calls if call[0] in ("announce", "fail", "send")]
    # After the failure of 2 nothing is sampled beyond what overlaps, until a step has passed.
    assert calls[:5] == [("announce", 0), ("announce", 1), ("fail", 2), ("send", 0), ("send", 1)]
    assert calls[5] == ("announce", 2)
    assert client.counts()["announce"] == 6
    # It keeps its number.
    assert client.steps == list(range(6))


def test_a_daemon_without_room_is_told_less_far_ahead() -> None:
    client = FakeClient(asked=12)
    client.no_room = set(range(6, 13))
    longest = []
    for number, rows in run(ahead := Prefetcher(client, horizon=12), 120):
        assert int(rows["x"].ids[0]) == number, "what was refused is fetched like everything else"
        longest.append(len(ahead) + 1)
    assert longest[0] == 14
    # Half, as soon as it is known; then one more in every 16 steps.
    assert longest[10] <= 8
    assert longest[10] < longest[60] < longest[100] <= 14
    assert client.counts()["announce"] == 120


def test_before_the_first_rows_the_daemon_is_not_believed() -> None:
    client = FakeClient(asked=100)
    client._course.has_fetched = False
    ahead = Prefetcher(client)
    longest = 0
    for number, _ in run(ahead, 200):
        longest = len(ahead) + 1
        if number == 0:
            assert longest == 10, "8 ahead, one in flight"
        elif number == 1:
            assert longest == 102


def test_what_is_wrong_with_a_minibatch_comes_out_at_its_place() -> None:
    client = FakeClient()
    client.unheard = {-1: rudder.IdOutOfRangeError("id -1")}
    ahead = Prefetcher(client)
    for number in (0, 1, -1, 3):
        ahead.push(wants(number), number)
    assert [ahead.pop()[0] for _ in range(2)] == [0, 1]
    with pytest.raises(rudder.IdOutOfRangeError):
        ahead.pop()
    assert ahead.pop()[0] == 3


@pytest.mark.parametrize("error", [rudder.ConnectionLostError("restarted"), rudder.SharedMemoryError("two do not fit")])
def test_what_befell_a_fetch_because_it_was_sent_ahead_is_asked_again(error: Exception) -> None:
    client = FakeClient()
    client.failing = {2: error}
    popped = [(number, int(rows["x"].ids[0])) for number, rows in run(Prefetcher(client), 5)]
    assert popped == [(number, number) for number in range(5)]
    # Number 3 was in flight, and was given up for the memory that 2 may have needed.
    sent = [call for call in client.calls if call[0] in ("send", "fetch")]
    assert sent == [("send", 0), ("send", 1), ("send", 2), ("send", 3), ("fetch", 2), ("send", 3), ("send", 4)]


def test_an_error_that_is_no_fault_of_the_overlap_is_not_asked_again() -> None:
    client = FakeClient()
    client.failing = {1: rudder.StorageError("the disk")}
    ahead = Prefetcher(client)
    for number in range(3):
        ahead.push(wants(number), number)
    ahead.pop()
    with pytest.raises(rudder.StorageError):
        ahead.pop()
    assert client.counts()["fetch"] == 0


def test_what_is_given_up_is_gone_and_the_next_announcement_begins_again() -> None:
    client = FakeClient(asked=3)
    for give_up in (Prefetcher.close, lambda ahead: ahead.__exit__(None, None, None), Prefetcher.__del__):
        ahead = Prefetcher(client)
        for number in range(4):
            ahead.push(wants(number), number)
        ahead.pop()
        assert len(client.alive) == 1
        give_up(ahead)
        assert (len(client.alive), len(ahead)) == (0, 0)
    assert client.steps == [0, 1, 2, 3] * 3
    # What is in flight was asked for, and nothing else waits: the count goes on.
    ahead = Prefetcher(client)
    for number in range(2):
        ahead.push(wants(number))
    ahead.pop()
    ahead.close()
    Prefetcher(client).push(wants(0))
    assert client.steps[12:] == [0, 1, 2]


def test_minibatches_in_one_place_are_refused_at_their_place() -> None:
    client = FakeClient()
    ids = np.arange(3)
    ahead = Prefetcher(client)
    ahead.push({"x": np.array([5])}, "good")
    ahead.push({"x": ids}, "spoiled")
    ids[0] = 9
    ahead.push({"x": ids}, "new")
    assert ahead.pop()[0] == "good"
    with pytest.raises(RuntimeError, match="the ids of minibatch 1 .* have changed while it waited"):
        ahead.pop()
    assert ahead.pop()[0] == "new"
    # One object, whose ids are new each time.
    batch = object()
    ahead.push({"x": np.array([1])}, batch)
    ahead.push({"x": np.array([2])}, batch)
    with pytest.raises(RuntimeError, match="have changed"):
        ahead.pop()


def test_an_evaluation_announces_nothing_and_teaches_nothing() -> None:
    for overlap in (0, 1):
        client = FakeClient()
        assert len(list(run(Prefetcher(client, learns=False, overlap=overlap), 4))) == 4
        assert (client.counts()["announce"], client.paused_calls, client.is_paused) == (0, 4, False)
    asked_for = FakeClient()
    assert len(list(run(Prefetcher(asked_for, learns=False, horizon=2), 4))) == 4
    assert (asked_for.counts()["announce"], asked_for.paused_calls) == (4, 0)


def test_a_forked_child_leaves_what_is_in_flight_to_its_parent() -> None:
    client = FakeClient()
    ahead = Prefetcher(client)
    for number in range(3):
        ahead.push(wants(number), number)
    ahead.pop()

    def work() -> None:
        assert [ahead.pop()[0] for _ in range(2)] == [1, 2]
        # Both were sent again, by this process; and it gives its announcements no numbers.
        assert client.counts()["send"] == 4
        ahead.push(wants(3))
        assert client.steps == [0, 1, 2, None]

    in_child(work)
    assert [ahead.pop()[0] for _ in range(2)] == [1, 2]
    assert client.counts()["send"] == 3


def test_numbers_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="horizon is -1"):
        Prefetcher(FakeClient(), horizon=-1)
    with pytest.raises(ValueError, match="overlap is -1"):
        Prefetcher(FakeClient(), overlap=-1)
