"""Clients that ask for as many texts as the server takes and do not read them."""

import asyncio
import json
from collections import Counter

from slm_bench.serve.attacks.target import Target, is_closed, post

TEXTS = 8  # of each client
RECEIVE_BUFFER = 4096  # bytes
# With its log-probabilities an event has more than a kilobyte, so that the buffers of a connection fill soon.
REQUEST = {"prompt": "Once upon a time", "max_tokens": 400, "n": TEXTS, "logprobs": 20, "ignore_eos": True}


async def stalled_readers(target: Target) -> Counter[str]:
    """Fill all places once, streaming and not in turn, and wait."""
    connections = []
    for number in range(max(target.places // TEXTS, 1)):
        connection = await target.connect(RECEIVE_BUFFER)
        body = json.dumps(REQUEST | {"model": target.model, "stream": number % 2 == 0}).encode()
        await target.send(connection, post("/v1/completions", body))
        connections.append(connection)
    while not target.is_over:
        await asyncio.sleep(0.1)
    closed = sum(map(is_closed, connections))
    return Counter(opened=len(connections), closed=closed)
