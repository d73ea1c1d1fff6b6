"""Models that cannot use pages are served by transformers' own generation, with all features of the server."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI

from slm_adapters import load
from slm_serve import Settings
from slm_testing.serve.http_clients import openai_client
from slm_testing.serve.open_streams import LONG_REQUEST, is_idle, open_stream
from slm_testing.serve.running_server import RunningServer, delayed, running_server
from slm_testing.serve.small_models import lora_config, save_adapter, save_base
from slm_testing.serve.waiting import wait_until

PROMPT = "Once upon a time there was a"
TARGETS = {"mamba": ["x_proj", "in_proj"], "bloom": ["query_key_value"]}


@pytest.fixture(scope="module", params=TARGETS)
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base without paged attention, and a LoRA for it."""
    folder = tmp_path_factory.mktemp(request.param)
    base = save_base(folder / "base", request.param)
    return {"base": base, "red": save_adapter(folder / "red", base, lora_config(target_modules=TARGETS[request.param]))}


@pytest.fixture(scope="module")
def server(folders: dict[str, Path]) -> Iterator[RunningServer]:
    settings: dict[str, Any] = {"max_sequences": 2, "max_queue": 8}
    with running_server(model_path=str(folders["base"]), adapter=(f"red={folders['red']}",), **settings) as running:
        yield running


@pytest.fixture
def slow_server(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    monkeypatch.setattr(server.engine, "step", delayed(server.engine.step, 0.05))
    settings = server.service.settings.model_copy(update={"request_timeout": 1.5})
    monkeypatch.setattr(server.service, "settings", settings)
    return server


@pytest.fixture
def client(server: RunningServer) -> OpenAI:
    return openai_client(server.url)


def greedy_text(folder: Path, new: int) -> str:
    """Return what transformers' own generate adds to PROMPT, greedily, past any end of text."""
    loaded = load(folder, device="cpu")
    ids = torch.tensor([loaded.tokenizer(PROMPT)["input_ids"]])
    options: Any = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    generate: Any = loaded.model.generate
    out = generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    return str(loaded.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def test_the_models_name_the_backend_and_the_reason(server: RunningServer, folders: dict[str, Path]) -> None:
    cards = server.get("/v1/models").json()["data"]
    assert [(card["id"], card["backend"], card["max_model_len"]) for card in cards] == [
        ("base", "transformers", 8192),
        ("red", "transformers", 8192),
    ]
    (reason,) = {card["backend_reason"] for card in cards}
    assert "attention" in reason
    assert str(folders["base"].parent) not in reason
    lines = server.service.backend.summary.splitlines()
    assert lines[:2] == ["weights: float32, as requested", "backend: transformers on cpu, float32, threads: 1"]
    assert f"no pages: {reason}" in lines


def test_the_metrics_have_no_pages(server: RunningServer) -> None:
    server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
    text = server.get("/metrics").text
    assert "slm_pages" not in text
    assert "slm_preemptions" not in text
    assert server.metric("slm_generation_tokens_total") > 0


def test_texts_streamed_at_the_same_time_equal_those_of_transformers(client: OpenAI, folders: dict[str, Path]) -> None:
    expected = {name: greedy_text(folder, 12) for name, folder in folders.items()}
    assert expected["base"] != expected["red"]

    def streamed(name: str) -> tuple[str, list[str | None], int]:
        events = list(
            client.completions.create(
                model=name, prompt=PROMPT, max_tokens=12, temperature=0, stream=True, extra_body={"ignore_eos": True},
                stream_options={"include_usage": True},
            )
        )  # fmt: skip
        choices = [choice for event in events for choice in event.choices]
        assert events[-1].usage
        reasons: list[str | None] = [choice.finish_reason for choice in choices]
        return "".join(choice.text for choice in choices), reasons, events[-1].usage.completion_tokens

    names = ["base", "red", "base", "red", "red"]
    with ThreadPoolExecutor(len(names)) as threads:
        for name, (text, reasons, tokens) in zip(names, threads.map(streamed, names), strict=True):
            assert text == expected[name]
            assert reasons == [None] * 11 + ["length"]
            assert tokens == 12


def test_recomputing_the_whole_text_for_each_token_gives_the_same_text(
    server: RunningServer, folders: dict[str, Path]
) -> None:
    body = {"prompt": PROMPT, "max_new_tokens": 6, "temperature": 0}
    texts = [server.post("/generate", body | {"use_cache": use_cache}).json()["text"] for use_cache in (True, False)]
    assert texts[0] == texts[1]


def test_logprobs_and_echo_are_those_of_the_model(client: OpenAI, folders: dict[str, Path]) -> None:
    loaded = load(folders["base"], device="cpu")
    ids = loaded.tokenizer(PROMPT)["input_ids"]
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    expected = [float(logits[row, token]) for row, token in enumerate(ids[1:])]
    completion = client.completions.create(model="base", prompt=PROMPT, max_tokens=0, echo=True, logprobs=1)
    logprobs = completion.choices[0].logprobs
    assert logprobs
    assert logprobs.token_logprobs
    assert logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-3)


def test_seeds_and_stop_strings_work(client: OpenAI) -> None:
    options: Any = {"model": "base", "prompt": PROMPT, "max_tokens": 8, "extra_body": {"ignore_eos": True}}
    texts = [choice.text for choice in client.completions.create(n=2, seed=4, **options).choices]
    assert texts == [client.completions.create(seed=seed, **options).choices[0].text for seed in (4, 5)]
    assert texts[0] != texts[1]
    stop = texts[0].split()[1]
    stopped = client.completions.create(seed=4, stop=[stop], **options).choices[0]
    assert (stopped.text, stopped.finish_reason) == (texts[0][: texts[0].index(stop)], "stop")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_disconnects_frees_its_place(slow_server: RunningServer, stream: bool) -> None:
    connection = open_stream(slow_server, LONG_REQUEST | {"stream": stream})
    wait_until(lambda: slow_server.engine.load().running == 1)
    (sequence,) = slow_server.engine._running
    connection.close()
    wait_until(lambda: is_idle(slow_server))
    assert sequence.handle.finish_reason == "cancelled"
    assert slow_server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200


def test_requests_beyond_the_queue_get_429_and_the_deadline_keeps_texts_without_a_limit(
    slow_server: RunningServer,
) -> None:
    limited = {"prompt": "a", "n": 1, "max_tokens": 500, "ignore_eos": True}
    unlimited = {"messages": [{"role": "user", "content": "a"}], "ignore_eos": True}
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(slow_server.post, "/v1/chat/completions", unlimited)
        second = threads.submit(slow_server.post, "/v1/completions", limited)
        wait_until(lambda: slow_server.metric("slm_running") == 2)
        waiting = [open_stream(slow_server, LONG_REQUEST | {"stream": True}) for _ in range(8)]
        wait_until(lambda: slow_server.metric("slm_queue") == 8)
        assert slow_server.post("/generate", {"prompt": "a"}).status_code == 429
        assert first.result().status_code == 200
        assert first.result().json()["choices"][0]["finish_reason"] == "length"
        assert 0 < first.result().json()["usage"]["completion_tokens"] <= 30
        assert second.result().status_code == 504
    for connection in waiting:
        connection.close()
    wait_until(lambda: is_idle(slow_server))


def test_an_error_ends_one_request_only(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    next_logits = server.engine._next_logits

    def fail_for_one_seed(sequence: Any) -> Any:
        if sequence.handle.params.seed == 666:
            raise RuntimeError("secret/path failed")
        return next_logits(sequence)

    monkeypatch.setattr(server.engine, "_next_logits", fail_for_one_seed)
    with ThreadPoolExecutor(2) as threads:
        body = {"prompt": "a b", "max_new_tokens": 5}
        unaffected = threads.submit(server.post, "/generate", body)
        failed = threads.submit(server.post, "/generate", body | {"seed": 666}).result()
    assert unaffected.result().status_code == 200
    assert failed.status_code == 500
    assert "secret" not in failed.text
    too_long = server.post("/generate", {"prompt": "a", "max_new_tokens": 9000})
    assert too_long.status_code == 422
    assert "8192" in too_long.json()["detail"]


def test_running_requests_are_finished_while_draining(folders: dict[str, Path], monkeypatch: Any) -> None:
    body = {"prompt": "a", "max_tokens": 10, "ignore_eos": True}
    with running_server(model_path=str(folders["base"])) as server, ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(server.engine, "step", delayed(server.engine.step, 0.02))
        running = threads.submit(server.post, "/v1/completions", body)
        wait_until(lambda: server.metric("slm_running") == 1)
        server.loop.call_soon_threadsafe(server.service.drain)
        assert running.result().json()["usage"]["completion_tokens"] == 10
        assert server.post("/v1/completions", body).status_code == 503
        assert server.get("/health/ready").status_code == 503


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--backend", "engine"], "; serve it with --backend transformers"),
        (["--weights", "q8", "--weights_text", "TEXT"], "q8 needs the paged engine"),
        (["--weights", "q8", "--backend", "transformers"], "--weights q8 needs the paged engine"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_needs_pages_is_refused_in_one_sentence(
    folders: dict[str, Path], tmp_path: Path, refused: Callable[..., str], flags: list[str], message: str
) -> None:
    text = tmp_path / "text"
    text.write_text("Once upon a time there was a little girl. " * 20)
    flags = [str(text) if flag == "TEXT" else flag for flag in flags]
    last = refused("--model_path", str(folders["base"]), *flags)
    assert last.startswith("slm-serve: ")
    assert message in last


@pytest.mark.parametrize(
    ("model_type", "message"), [("t5", "an encoder besides its decoder"), ("roberta", "later tokens")]
)
def test_a_model_that_is_not_causal_is_refused_in_one_sentence(
    tmp_path: Path, refused: Callable[..., str], model_type: str, message: str
) -> None:
    folder = save_base(tmp_path / "model", "roberta" if model_type == "roberta" else "llama")
    if model_type == "t5":
        (folder / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5Model"]}))
    last = refused("--model_path", str(folder))
    assert "is not a causal language model" in last
    assert message in last


def test_a_model_with_pages_gives_the_same_text_with_either_backend(tmp_path: Path) -> None:
    folder, body = save_base(tmp_path / "model"), {"prompt": PROMPT, "max_new_tokens": 12, "temperature": 0}
    answers, cards = {}, {}
    for backend in ("auto", "engine", "transformers"):
        with running_server(model_path=str(folder), backend=backend) as server:
            answers[backend] = server.post("/generate", body).json()["text"]
            (card,) = server.get("/v1/models").json()["data"]
            cards[backend] = (card["backend"], card["backend_reason"], card["max_model_len"])
    assert len(set(answers.values())) == 1
    assert cards == {name: ("engine" if name == "auto" else name, None, 128) for name in answers}


def test_the_backend_is_chosen_by_default() -> None:
    assert Settings().backend == "auto"
