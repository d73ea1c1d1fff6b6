"""Reading bodies: what is no body, and bodies that are made to keep the server busy."""

import asyncio
import gc
import gzip
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from slm_testing.serve.running_server import RunningServer

JSON = {"Content-Type": "application/json"}
SIZE = 990_000  # just below the limit
MAX_GAP = 0.1  # seconds


def filled(head: bytes, item: bytes, tail: bytes, size: int = SIZE) -> bytes:
    """Return a body of ``size`` bytes with as many items as fit."""
    return head + item * ((size - len(head) - len(tail)) // len(item)) + tail


HOSTILE = {
    "bad ids": ("/v1/completions", filled(b'{"prompt":[', b"-1,", b"0]}")),
    "ids as strings": ("/v1/completions", filled(b'{"prompt":[1,', b'"1",', b"1]}")),
    "valid ids": ("/v1/completions", filled(b'{"prompt":[', b"1,", b"1]}")),
    "lists": ("/v1/completions", filled(b'{"prompt":[', b"[],", b"[]]}")),
    "some lists": ("/v1/completions", filled(b'{"prompt":[', b"[],", b"[]]}", 140_000)),
    "nested": ("/v1/completions", b'{"prompt":' + b"[" * 490_000 + b"]" * 490_000 + b"}"),
    "nested objects": ("/generate", b'{"a":' * 160_000 + b"1" + b"}" * 160_000),
    "long integer": ("/generate", filled(b'{"prompt":"a","seed":', b"9", b"}")),
    "long integers": ("/v1/completions", filled(b'{"prompt":[', b"9" * 4300 + b",", b"0]}")),
    "stop strings": ("/v1/completions", filled(b'{"prompt":"a","stop":[', b'"a",', b'"a"]}')),
    "messages": ("/v1/chat/completions", filled(b'{"messages":[', b'{"role":"user","content":"a"},', b"{}]}")),
    "bad messages": ("/v1/chat/completions", filled(b'{"messages":[', b"{},", b"{}]}", 140_000)),
    "parts": ("/v1/chat/completions", filled(b'{"messages":[{"role":"user","content":[', b"5,", b"5]}]}")),
    "unknown fields": ("/generate", b'{"prompt":"a",' + b",".join(b'"k%d":1' % n for n in range(49_000)) + b"}"),
    "long role": ("/v1/chat/completions", filled(b'{"messages":[{"content":"a","role":"', b"x", b'"}]}')),
    "long model": ("/v1/completions", filled(b'{"prompt":"a","model":"', b"x", b'"}')),
    "long name": ("/generate", filled(b'{"', b"x", b'":1}')),
    "ids to decode": ("/detokenize", filled(b'{"tokens":[', b"1.5,", b"1]}")),
}


@contextmanager
def longest_gap(server: RunningServer) -> Iterator[list[float]]:
    """Measure the longest time for which the event loop did not run, in CPU seconds: others use this machine, too.

    A server freezes its heap once it has loaded; so is the heap here, with the objects of all tests before in it. It
    stays so, because a collection of all of it takes half a second.
    """
    gaps = [0.0]
    gc.collect()
    gc.freeze()

    async def watch() -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0.001)
            last, gap = time.process_time(), time.process_time() - last
            gaps[0] = max(gaps[0], gap)

    loop = server.service._loading.get_loop()
    watching = asyncio.run_coroutine_threadsafe(watch(), loop)
    try:
        yield gaps
    finally:
        watching.cancel()


@pytest.mark.parametrize(("path", "body"), HOSTILE.values(), ids=HOSTILE)
def test_no_body_blocks_the_event_loop_or_gets_a_long_error(server: RunningServer, path: str, body: bytes) -> None:
    assert len(body) < server.service.settings.max_body_bytes
    with longest_gap(server) as gaps:
        response = server.request("POST", path, content=body, headers=JSON)
    assert 400 <= response.status_code < 500
    assert len(response.content) < 1500
    assert gaps[0] < MAX_GAP


def test_long_texts_are_tokenized_without_blocking_the_event_loop(server: RunningServer) -> None:
    bodies: list[tuple[str, Any]] = [
        ("/tokenize", {"prompt": "word " * 100_000, "return_token_strs": True}),
        ("/detokenize", {"tokens": [5] * 150_000}),
        ("/v1/completions", {"prompt": ["word " * 1000] * 128}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 100}] * 900}),
    ]
    with longest_gap(server) as gaps:
        for path, body in bodies:
            assert server.post(path, body).status_code in (200, 400)
    assert gaps[0] < MAX_GAP


def test_at_most_ten_errors_are_listed(server: RunningServer) -> None:
    response = server.post("/generate", {f"unknown{number}": 1 for number in range(50)})
    assert len(response.json()["detail"]) == 10
    assert all(set(problem) == {"loc", "msg", "type"} for problem in response.json()["detail"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the body is empty"),
        (b"  \n", "the body is empty"),
        (b'{"prompt": "a"', "not valid JSON"),
        (b"{'prompt': 'a'}", "not valid JSON"),
        (b'{"prompt": "a"} x', "not valid JSON"),
        ('{"prompt": "é"}'.encode("latin-1"), "not UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), "not UTF-8"),
        (b'["a"]', "the body must be an object, not a list"),
        (b"null", "the body must be an object, not null"),
        (b'{"prompt": "a", "prompt": "b"}', "repeated key"),
        (b'{"prompt": "a", "stream_options": {"include_usage": true, "include_usage": true}}', "repeated key"),
        (b'{"prompt": "a", "seed": 1e400}', "seed must be an integer"),
        (b'{"prompt": ' + b"[" * 3000 + b"]" * 3000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_no_body_is_said_in_a_sentence(server: RunningServer, content: bytes, sentence: str) -> None:
    response = server.request("POST", "/v1/completions", content=content, headers=JSON)
    assert response.status_code == 400
    assert sentence in response.json()["error"]["message"]


def test_a_byte_order_mark_and_a_text_full_of_brackets_are_fine(server: RunningServer) -> None:
    marked = b'\xef\xbb\xbf{"prompt": "a", "max_tokens": 1}'
    assert server.request("POST", "/v1/completions", content=marked, headers=JSON).status_code == 200
    text = '[{"a\\": ' * 30_000 + "1" * 500
    response = server.post("/tokenize", {"prompt": text})
    assert response.status_code == 200
    assert response.json()["count"] > 30_000


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize("path", ["/v1/completions", "/generate"])
def test_only_json_is_read(server: RunningServer, path: str, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = server.request("POST", path, content=b'{"prompt": "a"}', headers=headers)
    assert response.status_code == (400 if path.startswith("/v1") else 422)
    assert "application/json" in response.text


def test_the_schema_describes_the_bodies(server: RunningServer) -> None:
    schema = server.get("/openapi.json").json()
    for path, methods in schema["paths"].items():
        if "post" in methods:
            reference = methods["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            assert reference.rpartition("/")[2] in schema["components"]["schemas"]
            assert {"400", "422"} & set(methods["post"]["responses"]), path


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"Content-Encoding": "gzip"}, "content encoding"),
        ({"Content-Encoding": "br, gzip"}, "content encoding"),
        ({"Content-Type": "application/json; charset=ISO-8859-1"}, "charset"),
        ({"Content-Type": "application/json; charset=utf-16"}, "charset"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_bodies_in_another_encoding_are_refused_by_name(
    server: RunningServer, headers: dict[str, str], named: str, compressed: bool
) -> None:
    body = b'{"prompt": "\xc3\xa9", "max_tokens": 1}'
    content = gzip.compress(body) if compressed else body
    response = server.request("POST", "/v1/completions", content=content, headers=JSON | headers)
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', "us-ascii"])
def test_charsets_that_are_utf_8_are_read(server: RunningServer, charset: str) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}", "Content-Encoding": "identity"}
    body = b'{"prompt": "\xc3\xa9", "max_tokens": 1}'
    assert server.request("POST", "/v1/completions", content=body, headers=headers).status_code == 200
