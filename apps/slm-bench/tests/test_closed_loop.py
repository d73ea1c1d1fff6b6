"""The load generator against a server of a few lines, which answers in all forms that HTTP/1.1 allows."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from slm_bench.serve.client.closed_loop import closed_loop, completion, percentile, send
from slm_bench.serve.client.http_client import Connection, ConnectionBroken

CHUNKED = "Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked"
Answer = Callable[[dict[str, object], asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[int]:
    """Yield the port of a server that passes each request's body to ``answer``."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readline()).decode():
            length = 0
            while line := (await reader.readline()).decode().strip().lower():
                length = int(line.split(":")[1]) if line.startswith("content-length") else length
            assert head.startswith("POST /v1/completions HTTP/1.1")
            await answer(json.loads(await reader.readexactly(length)), writer)
            if writer.is_closing():
                return

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def send_events(writer: asyncio.StreamWriter, *chunks: bytes) -> None:
    """Send an event stream in these chunks, which need not coincide with events."""
    writer.write(f"HTTP/1.1 200 OK\r\n{CHUNKED}\r\n\r\n".encode())
    for chunk in chunks:
        writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
    writer.write(b"0\r\n\r\n")


def test_events_are_decoded_across_chunks_and_tokens_are_those_of_the_usage() -> None:
    async def answer(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        assert (body["max_tokens"], body["temperature"], body["stream"], body["more"]) == (3, 0, True, 1)
        await send_events(
            writer,
            b'data: {"choices": [{"text": "a"}]}\n\ndata: {"cho',
            b'ices": [{"text": "\\n\\n"}]}\n',
            b'\ndata: {"choices": [], "usage": {"completion_tokens": 3}}\n\ndata: [DONE]\n\n',
        )

    async def run() -> None:
        async with served(answer) as port:
            connection = await Connection.open(port)
            for _ in range(2):  # kept alive
                reply = await send(connection, completion("m", "p", 3, more=1))
                assert (reply.status, reply.tokens, reply.error) == (200, 3, "")
                assert 0 < reply.first < reply.last
                assert reply.each == (reply.last - reply.first) / 2
            connection.close()

    asyncio.run(run())


def test_an_error_in_a_stream_is_not_taken_for_a_text() -> None:
    async def answer(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        await send_events(writer, b'data: {"choices": [{"text": "a"}]}\n\n', b'data: {"error": "the model failed"}\n\n')

    async def run() -> None:
        async with served(answer) as port:
            (reply,) = await closed_loop(port, [completion("m", "p", 3)], 1)
            assert reply.error == "the model failed"

    asyncio.run(run())


def test_unstreamed_answers_and_refusals_keep_their_status() -> None:
    async def answer(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        status, content = (200, {"usage": {"completion_tokens": 2}}) if body["prompt"] else (429, {"detail": "full"})
        data = json.dumps(content).encode()
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)

    async def run() -> None:
        async with served(answer) as port:
            bodies = [completion("m", prompt, 2, stream=False) for prompt in ("p", "")]
            good, full = await closed_loop(port, bodies, 1)
            assert (good.status, good.tokens) == (200, 2)
            assert (full.status, full.tokens, full.error) == (429, 0, '{"detail": "full"}')

    asyncio.run(run())


def test_the_loop_has_one_request_in_flight_per_client_and_sends_each_once() -> None:
    in_flight, peak, seen = 0, 0, list[object]()

    async def answer(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        nonlocal in_flight, peak
        in_flight, seen[:] = in_flight + 1, [*seen, body["prompt"]]
        peak = max(peak, in_flight)
        await asyncio.sleep(0.01)
        in_flight -= 1
        await send_events(writer, b'data: {"choices": [{"text": "a"}], "usage": {"completion_tokens": 1}}\n\n')

    async def run() -> None:
        async with served(answer) as port:
            replies = await closed_loop(port, [completion("m", str(number), 1) for number in range(10)], 3)
            assert len(replies) == 10

    asyncio.run(run())
    assert peak == 3
    assert sorted(map(str, seen)) == [str(number) for number in range(10)]


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", f"HTTP/1.1 200 OK\r\n{CHUNKED}\r\n\r\n9\r\nda".encode()])
def test_a_connection_that_ends_too_early_is_not_taken_for_an_answer(sent: bytes) -> None:
    async def answer(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.close()

    async def run() -> None:
        async with served(answer) as port:
            await closed_loop(port, [completion("m", "p", 1)], 1)

    with pytest.raises(ConnectionBroken, match="the connection ended"):
        asyncio.run(run())


def test_a_percentile_is_one_of_the_values() -> None:
    hundred = [float(number) for number in range(100, 0, -1)]
    assert (percentile(hundred, 50), percentile(hundred, 99), percentile([3.0], 99)) == (50, 99, 3)
