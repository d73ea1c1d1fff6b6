"""What connections share: which of them are closed first when there are too many, or too many bytes wait."""

import asyncio

import pytest

from slm_serve.http.connections.limits import ConnectionLimits
from slm_serve.http.connections.registry import Connections
from slm_serve.http.connections.send_watch import SendWatch


class FakeConnection:
    def __init__(self, unsent_bytes: int = 0) -> None:
        self.unsent_bytes, self.aborted = unsent_bytes, False

    def abort(self) -> None:
        self.aborted = True


def test_the_connection_that_has_waited_longest_makes_room_first() -> None:
    connections, (first, second, blocked) = Connections(), [FakeConnection() for _ in range(3)]
    connections.blocked[blocked] = None
    for waiting in (first, second, first):
        connections.waiting.pop(waiting, None)
        connections.waiting[waiting] = None
    closed = []
    while connections.make_room():
        closed += [each for each in (first, second, blocked) if each.aborted and each not in closed]
    assert closed == [second, first, blocked]


@pytest.mark.parametrize(
    ("unsent", "aborted"),
    [([50, 50], [False, False]), ([50, 51], [True, False]), ([40, 70, 30], [True, False, False]), ([500], [False])],
)
def test_bytes_that_wait_for_all_clients_are_bounded(unsent: list[int], aborted: list[bool]) -> None:
    blocked = [FakeConnection(size) for size in unsent]
    connections = Connections(ConnectionLimits(unsent_bytes=100))
    connections.blocked = dict.fromkeys(blocked)
    connections.bound_unsent_bytes()
    assert [connection.aborted for connection in blocked] == aborted


@pytest.mark.parametrize(
    ("rest", "stalls"),
    [([100, 100], True), ([100, 91], True), ([100, 90, 80, 70], False), ([5, 0], False), ([9, 9], True)],
)
def test_a_client_must_take_some_bytes_or_all_of_them(rest: list[int], stalls: bool) -> None:
    """``rest``: bytes that are left at each check."""
    stalled: list[bool] = []

    class Reader(FakeConnection):
        reads = 0

        @property  # type: ignore[override]
        def unsent_bytes(self) -> int:
            """Read at the start, then twice at each check."""
            self.reads += 1
            return rest[min(self.reads // 2, len(rest) - 1)]

        @unsent_bytes.setter
        def unsent_bytes(self, size: int) -> None:
            pass

    async def run() -> None:
        limits = ConnectionLimits(send_seconds=0.001, send_bytes=10)
        reader = Reader()
        watch = SendWatch(reader, limits, lambda: stalled.append(True))
        watch.start()
        while not stalled and reader.reads < 2 * len(rest) - 1:
            await asyncio.sleep(0.001)
        watch.stop()

    asyncio.run(run())
    assert bool(stalled) is stalls
