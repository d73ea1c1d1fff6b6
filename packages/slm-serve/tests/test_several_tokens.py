"""Steps that give a text several tokens, over HTTP."""

import re
from typing import Any

import pytest

from slm_testing.serve.http_clients import openai_client
from slm_testing.serve.running_server import RunningServer

REQUEST: dict[str, Any] = {"model": "sample", "prompt": "Once upon a time there was a little", "max_tokens": 120}


def drafted_and_accepted(server: RunningServer) -> list[float]:
    text = server.get("/metrics").text
    return [float(re.findall(rf"^slm_{name}_tokens_total (\S+)", text, re.M)[0]) for name in ("drafted", "accepted")]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 0.1, "seed": 4}])
def test_streams_have_all_tokens_logprobs_and_usage_of_several_choices(
    server: RunningServer, options: dict[str, Any]
) -> None:
    client = openai_client(server.url)
    _, before = drafted_and_accepted(server)
    request = REQUEST | options | {"n": 2, "logprobs": 1}
    whole = client.completions.create(**request)
    tokens: dict[int, list[str]] = {0: [], 1: []}
    texts, usage = {0: "", 1: ""}, None
    for event in client.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        usage = event.usage or usage
        for choice in event.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += (choice.logprobs.tokens or []) if choice.logprobs else []
    drafted, accepted = drafted_and_accepted(server)
    assert before < accepted < drafted
    assert usage == whole.usage
    for choice in whole.choices:
        assert choice.logprobs
        assert (texts[choice.index], tokens[choice.index]) == (choice.text, choice.logprobs.tokens)
    assert usage
    assert usage.completion_tokens == sum(map(len, tokens.values()))
