"""Bodies below the size limit whose validation takes long, or whose answer would be large."""

import asyncio
import json
from collections import Counter

from slm_bench.serve.attacks.target import Target, post

CLIENTS = 4
VALUES = 330_000  # invalid elements, in less than a megabyte
NESTED = 200_000


def bodies(model: str) -> list[tuple[str, bytes]]:
    """Return paths and bodies."""
    invalid_ids = ",".join(["-1"] * VALUES)
    keys = ",".join(f'"{number:x}":0' for number in range(VALUES // 4))
    messages = ",".join(["{}"] * VALUES)
    return [
        ("/detokenize", f'{{"tokens":[{invalid_ids}]}}'.encode()),
        ("/v1/completions", f'{{"model":{json.dumps(model)},"prompt":[{invalid_ids}]}}'.encode()),
        ("/v1/completions", f'{{"model":{json.dumps(model)},"prompt":"a",{keys}}}'.encode()),
        ("/v1/chat/completions", f'{{"model":{json.dumps(model)},"messages":[{messages}]}}'.encode()),
        ("/v1/chat/completions", b'{"messages":' + b"[" * NESTED + b"]" * NESTED + b"}"),
        ("/generate", b'{"prompt":' + b'"' + b"\\u0000" * (VALUES // 3) + b'"}'),
    ]


async def blocking_bodies(target: Target) -> Counter[str]:
    """Send the bodies in turn, from several clients, as soon as the previous one is answered."""
    counts, requests = Counter[str](), [post(path, body, close=True) for path, body in bodies(target.model)]

    async def client(first: int) -> None:
        number = first
        while not target.is_over:
            with await target.connect() as connection:
                await target.send(connection, requests[number % len(requests)])
                answer = await target.read_to_end(connection)
            counts[f"status {answer[9:12].decode() or 'none'}"] += 1
            counts["answer bytes"] += len(answer)
            number += 1

    await asyncio.gather(*map(client, range(CLIENTS)))
    return counts
