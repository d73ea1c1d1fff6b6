"""The attacking clients, against a server that accepts everything and answers nothing."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from slm_bench.serve.attacks import blocking_bodies, connection_flood, huge_headers, slow_requests, stalled_readers
from slm_bench.serve.attacks.__main__ import ATTACKS
from slm_bench.serve.attacks.target import Target, is_closed
from slm_bench.serve.client.honest import HonestClient, slowest_health_check

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
SECONDS = 0.6
REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"


async def with_server(handler: Handler, client: Callable[[int], Coroutine[Any, Any, Any]]) -> Any:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        return await client(server.sockets[0].getsockname()[1])
    finally:
        server.close()


def attack(name: str, handler: Handler, seconds: float = SECONDS) -> dict[str, int]:
    return asyncio.run(
        with_server(handler, lambda port: ATTACKS[name](Target(port, "model", 16, time.monotonic() + seconds)))
    )


async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(REFUSAL)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_in_time_and_counts_what_it_did(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_headers, "HEADER_BYTES", 2**17)
    monkeypatch.setattr(blocking_bodies, "VALUES", 100)
    start = time.monotonic()
    counts = attack(name, ignore)
    assert time.monotonic() - start < 10
    assert sum(counts.get(name, 0) for name in ("accepted", "refused", "opened", "status none")) > 1


@pytest.mark.parametrize("name", ["huge_headers", "slow_requests", "connection_flood"])
def test_connections_that_the_server_closes_are_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_requests, "PAUSE", 0.05)
    monkeypatch.setattr(connection_flood, "PAUSE", 0.05)
    monkeypatch.setattr(connection_flood, "CONNECTIONS", 20)
    # A busy machine may need longer for one connection than an attack lasts.
    assert any(attack(name, close, seconds)["closed"] for seconds in (SECONDS, 5 * SECONDS, 25 * SECONDS))


def test_a_reader_that_is_refused_tries_again() -> None:
    counts = attack("stalled_readers", refuse)
    assert counts["refused"] > 16 // stalled_readers.TEXTS
    assert "accepted" not in counts


def test_bodies_stay_below_the_default_size_limit() -> None:
    assert all(0.3e6 < len(body) < 1e6 for _, body in blocking_bodies.bodies("model"))


def test_a_connection_that_was_reset_or_closed_is_recognised() -> None:
    async def check(port: int) -> bool:
        connection = await Target(port, "", 1, time.monotonic() + SECONDS).connect()
        await asyncio.sleep(0.2)
        return is_closed(connection)

    assert asyncio.run(with_server(close, check))
    assert not asyncio.run(with_server(ignore, check))


def test_an_honest_client_waits_for_its_answer_through_refusals() -> None:
    seen = []

    async def second_time(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        seen.append(1)
        body = json.dumps({"usage": {"completion_tokens": 3}}).encode()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        writer.write(REFUSAL if len(seen) % 2 else answer)

    client = HonestClient()
    asyncio.run(with_server(second_time, lambda port: client.run(port, b"{}", 3, time.perf_counter() + SECONDS)))
    assert client.statuses[200] == len(client.latencies) > 0
    assert min(client.latencies) > 0.1  # the pause after a refusal counts


def test_a_health_check_without_an_answer_counts_until_the_end() -> None:
    for handler in (ignore, close):
        slowest = asyncio.run(
            with_server(handler, lambda port: slowest_health_check(port, time.perf_counter() + SECONDS))
        )
        assert slowest > SECONDS * 0.9


def test_the_attacking_process_prints_its_counts_without_loading_torch() -> None:
    code = "import sys; import slm_bench.serve.attacks.__main__; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
