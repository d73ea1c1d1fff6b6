"""Adapters that are loaded, replaced and unloaded over HTTP while the server runs."""

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from slm_adapters import load
from slm_data import sample_base
from slm_testing.serve.backend_jobs import generate_with_engine, greedy_params
from slm_testing.serve.http_clients import openai_client
from slm_testing.serve.running_server import RunningServer, delayed, running_server
from slm_testing.serve.small_models import BUTTERFLY, lora_config, save_adapter, save_base
from slm_testing.serve.waiting import wait_until

KEY = "secret-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter root: adapters of the base beside it, and folders that cannot be loaded."""
    folder = tmp_path_factory.mktemp("runtime")
    base, other = save_base(folder / "base"), save_base(folder / "other", "gpt2")
    root = folder / "root"
    save_adapter(root / "red", base, lora_config())
    save_adapter(root / "retrained", base, lora_config(), seed=2)
    save_adapter(root / "moth", base, BUTTERFLY)
    save_adapter(root / "gpt2", other, lora_config(target_modules=["c_attn"]))
    save_adapter(root / "pissa", base, lora_config())
    config = root / "pissa" / "adapter_config.json"
    config.write_text(config.read_text().replace('"init_lora_weights": true', '"init_lora_weights": "pissa"'))
    shutil.copytree(root / "red", root / "cut")
    weights = root / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    shutil.copytree(root / "red", root / "words")
    AutoTokenizer.from_pretrained(sample_base()).train_new_from_iterator(["Hello"] * 9, 300).save_pretrained(
        root / "words"
    )
    save_adapter(folder / "outside", base, lora_config())
    (root / "link").symlink_to(folder / "outside")
    shutil.copytree(root / "red", root / "linked_file")
    (root / "linked_file" / "notes").symlink_to(folder / "base" / "config.json")
    (root / "empty").mkdir()
    (root / "loop").symlink_to(root / "loop")
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[RunningServer]:
    with running_server(
        model_path=str(root.parent / "base"), adapter_root=str(root), api_key=KEY, max_sequences=8
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def only_the_base(request: pytest.FixtureRequest) -> Iterator[None]:
    """Unload all adapters after each test."""
    yield
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        for name in names(server)[1:]:
            assert unload(server, name).status_code == 200


def change(server: RunningServer, path: str, body: Any) -> httpx.Response:
    return server.post(f"/v1/{path}", body, headers=HEADERS)


def load_adapter(server: RunningServer, name: str, path: str | Path, **options: Any) -> httpx.Response:
    return change(server, "load_lora_adapter", {"lora_name": name, "lora_path": str(path), **options})


def unload(server: RunningServer, name: str) -> httpx.Response:
    return change(server, "unload_lora_adapter", {"lora_name": name})


def names(server: RunningServer) -> list[str]:
    return [card["id"] for card in server.get("/v1/models", headers=HEADERS).json()["data"]]


def completion_body(model: str, tokens: int) -> dict[str, Any]:
    return {"model": model, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}


def complete(server: RunningServer, model: str, tokens: int = 12) -> str:
    response = server.post("/v1/completions", completion_body(model, tokens), headers=HEADERS)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["text"]
    return text


def expected(root: Path, adapter: str | None, tokens: int = 12) -> str:
    """The text of a fresh engine with these weights."""
    base = root.parent / "base"
    ids = load(base, device="cpu").tokenizer(PROMPT)["input_ids"]
    (handle,) = generate_with_engine(base, root / adapter if adapter else None, [ids], greedy_params(tokens))
    return str(handle.text)


def test_a_loaded_adapter_answers_as_one_given_at_the_start_and_is_listed(server: RunningServer, root: Path) -> None:
    before = complete(server, "base")
    response = load_adapter(server, "red", "red")
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'red' added successfully.")
    assert load_adapter(server, "moth", root / "moth").status_code == 200  # an absolute path
    assert names(server) == ["base", "red", "moth"]
    card = server.get("/v1/models/moth", headers=HEADERS).json()
    assert (card["kind"], card["parent"], card["weights"]) == ("adapter", "base", "unmerged")
    texts = {name: complete(server, name) for name in ("red", "moth", "base")}
    assert texts == {"red": expected(root, "red"), "moth": expected(root, "moth"), "base": before}
    assert len(set(texts.values())) == 3
    response = unload(server, "red")
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'red' removed successfully.")
    assert names(server) == ["base", "moth"]
    assert server.post("/v1/completions", completion_body("red", 1), headers=HEADERS).status_code == 404


def test_streams_finish_on_the_old_weights_and_later_requests_get_the_new(
    server: RunningServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_adapter(server, "red", "red")
    old, new = expected(root, "red", 60), expected(root, "retrained", 60)
    monkeypatch.setattr(server.engine, "step", delayed(server.engine.step, 0.01))
    client = openai_client(server.url, KEY)
    started = threading.Barrier(4)

    def streamed(number: int) -> str:
        text = ""
        for event in client.completions.create(
            model="red", prompt=PROMPT, max_tokens=60, temperature=0, stream=True, extra_body={"ignore_eos": True}
        ):
            if not text:
                started.wait(20)
            text += event.choices[0].text
        return text

    with ThreadPoolExecutor(8) as threads:
        streams = [threads.submit(streamed, number) for number in range(3)]
        started.wait(20)
        assert load_adapter(server, "red", "red").status_code == 409
        assert load_adapter(server, "red", "retrained", load_inplace=True).status_code == 200
        later = threads.submit(complete, server, "red", 60)
        wait_until(lambda: server.engine.load().running == 4)
        assert unload(server, "red").status_code == 200
        assert [stream.result() for stream in streams] == [old] * 3
        assert later.result() == new
    wait_until(lambda: not server.engine.adapters.removed)
    assert len(server.engine.models) == 1


def test_many_cycles_with_the_same_name_never_mix_weights_or_prefixes(server: RunningServer, root: Path) -> None:
    texts = {adapter: expected(root, adapter) for adapter in ("red", "retrained", "moth")}
    load_adapter(server, "x", "red")
    for adapter in ("red", "retrained", "moth", "red", "moth", "retrained"):
        assert load_adapter(server, "x", adapter, load_inplace=True).status_code == 200
        assert [complete(server, "x") for _ in range(2)] == [texts[adapter]] * 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gpt2", "does not fit base"),
        ("cut", "is damaged or cut short"),
        ("words", "has another vocabulary than the one in use"),
        ("pissa", "changes the base (init_lora_weights='pissa')"),
        ("empty", "has neither config.json nor adapter_config.json"),
        ("missing", "is not a folder below --adapter_root"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_422_in_one_sentence_and_changes_nothing(
    server: RunningServer, root: Path, path: str, message: str
) -> None:
    load_adapter(server, "x", "red")
    before = complete(server, "x")
    response = load_adapter(server, "x", path, load_inplace=True)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "adapter_refused")
    assert message in error["message"]
    assert str(root.parent) not in response.text
    assert "\n" not in error["message"]
    assert names(server) == ["base", "x"]
    assert complete(server, "x") == before
    assert len(server.engine.models) == 2


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../outside",
        "../nothing",
        "red/../../outside",
        "/etc",
        "/nothing",
        "link",
        "linked_file",
        "loop",
        ".",
        "a\0b",
        "x" * 3000,
    ],
)
def test_a_path_that_is_not_below_the_root_is_403_whether_it_exists_or_not(server: RunningServer, path: str) -> None:
    response = load_adapter(server, "x", path)
    assert response.status_code == 403
    assert response.json()["error"]["message"] == "lora_path must be a folder below --adapter_root"


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x\n"])
def test_an_invalid_name_is_refused(server: RunningServer, name: str) -> None:
    assert load_adapter(server, name, "red").status_code == 400


def test_names_that_are_in_use_or_must_stay_are_409_and_unknown_ones_404(server: RunningServer, root: Path) -> None:
    taken = load_adapter(server, "base", "red", load_inplace=True)
    assert (taken.status_code, taken.json()["error"]["param"]) == (409, "lora_name")
    assert unload(server, "base").status_code == 409
    assert unload(server, "red").status_code == 404
    load_adapter(server, "red", "red")
    message = load_adapter(server, "red", "moth").json()["error"]["message"]
    assert "already been loaded" in message
    assert "load_inplace" in message


def test_adapters_of_the_start_can_be_replaced_and_all_but_the_default_unloaded(root: Path) -> None:
    start: Any = {"adapter_path": str(root / "red"), "adapter": (f"moth={root / 'moth'}",)}
    with running_server(model_path=str(root.parent / "base"), adapter_root=str(root), api_key=KEY, **start) as server:
        assert names(server) == ["red", "base", "moth"]
        assert unload(server, "moth").status_code == 200
        refused = unload(server, "red")
        assert refused.status_code == 409
        assert "answers requests that name no model" in refused.json()["error"]["message"]
        assert load_adapter(server, "red", "retrained", load_inplace=True).status_code == 200
        assert names(server) == ["red", "base"]
        assert complete(server, "red") == expected(root, "retrained")
        assert complete(server, "base") == expected(root, None)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [({"api_key": KEY}, "start it with --adapter_root"), ({"adapter_root": "/srv"}, "set SLM_API_KEY")],
)
def test_without_a_root_or_a_key_nothing_is_loaded(tiny_model: Path, settings: dict[str, Any], remedy: str) -> None:
    with running_server(model_path=str(tiny_model), **settings) as server:
        for response in (load_adapter(server, "x", "red"), unload(server, "x")):
            assert response.status_code == 403
            assert remedy in response.json()["error"]["message"]


def test_a_root_that_is_no_folder_is_refused_at_the_start(tmp_path: Path, refused: Callable[..., str]) -> None:
    missing = tmp_path / "missing"
    assert f"--adapter_root {missing} is not a folder; create it" in refused("--adapter_root", str(missing))


def test_nothing_is_loaded_while_the_server_stops(root: Path) -> None:
    with running_server(
        model_path=str(root.parent / "base"), adapter_root=str(root), api_key=KEY, drain_timeout=1
    ) as server:
        server.service.drain()
        assert load_adapter(server, "red", "red").status_code == 503


def test_the_chat_template_of_a_loaded_adapter_is_used_and_goes_with_it(server: RunningServer, root: Path) -> None:
    own = AutoTokenizer.from_pretrained(sample_base())
    own.chat_template = "{% for message in messages %}[{{ message.content }}]{% endfor %}"
    folder = root / "chat"
    if not folder.exists():
        shutil.copytree(root / "red", folder)
        own.save_pretrained(folder)
    load_adapter(server, "x", "red")
    chat = {"model": "x", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}

    def prompt_tokens() -> int:
        tokens: int = server.post("/v1/chat/completions", chat, headers=HEADERS).json()["usage"]["prompt_tokens"]
        return tokens

    plain = prompt_tokens()
    load_adapter(server, "x", "chat", load_inplace=True)
    assert prompt_tokens() == len(own("[Hello]", add_special_tokens=False)["input_ids"]) != plain
    load_adapter(server, "x", "red", load_inplace=True)
    assert prompt_tokens() == plain
