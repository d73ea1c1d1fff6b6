"""Clients that ask for as many texts as the server takes and do not read them."""

import asyncio
import json
import socket
from collections import Counter

from slm_bench.serve.attacks.target import Target, is_closed, post

TEXTS = 8  # of each client
RECEIVE_BUFFER = 4096  # bytes
PAUSE = 0.1  # seconds
# With its log-probabilities an event has more than a kilobyte, so that the buffers of a connection fill soon.
REQUEST = {"prompt": "Once upon a time", "max_tokens": 400, "n": TEXTS, "logprobs": 20, "ignore_eos": True}


async def stalled_readers(target: Target) -> Counter[str]:
    """Take all places, streaming and not in turn, each of them once, and wait."""
    counts = Counter[str]()
    await asyncio.gather(*(_client(target, number, counts) for number in range(max(target.places // TEXTS, 1))))
    return counts


async def _client(target: Target, number: int, counts: Counter[str]) -> None:
    body = json.dumps(REQUEST | {"model": target.model, "stream": number % 2 == 0}).encode()
    while not target.is_over:
        with await target.connect(RECEIVE_BUFFER) as connection:
            await target.send(connection, post("/v1/completions", body))
            await asyncio.sleep(PAUSE)  # a refusal takes less
            if _is_refused(connection):
                counts["refused"] += 1
                continue
            counts["accepted"] += 1
            while not target.is_over:
                await asyncio.sleep(PAUSE)
            counts["closed"] += is_closed(connection)


def _is_refused(connection: socket.socket) -> bool:
    try:
        return b" 429 " in connection.recv(20, socket.MSG_PEEK)
    except BlockingIOError:  # no answer yet
        return False
    except OSError:
        return True
