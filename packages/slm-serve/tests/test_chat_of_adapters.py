"""Chats with models that were trained with different templates and are served together."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from slm_adapters import AdapterError
from slm_data import PLAIN_TEMPLATE, sample_base
from slm_serve import Settings
from slm_serve.backends.loading import load_backend
from slm_serve.backends.vllm.plan import plan_serving
from slm_testing.data.chat_templates import FAMILIES
from slm_testing.serve.running_server import RunningServer, running_server
from slm_testing.serve.small_models import lora_config, save_adapter, save_base

QUESTION = [{"role": "user", "content": "Hello"}]
PROMPTS = {
    "base": "User: Hello\n\nAssistant:",
    "zephyr": "<|user|>\nHello<|endoftext|>\n<|assistant|>\n",
    "brackets": "[Hello]",
    "plain": "User: Hello\n\nAssistant:",
    "weights": "User: Hello\n\nAssistant:",  # without a tokenizer of its own
}
TEMPLATES = {
    "zephyr": FAMILIES["zephyr"].source,
    "brackets": "{% for message in messages %}[{{ message['content'] }}]{% endfor %}",
    "plain": "{{ bos_token }}" + PLAIN_TEMPLATE,
}


def save_tokenizer(folder: Path, template: str | None, **options: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(sample_base(), **options)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base without a template, and adapters as slm-train saves them, the first with a template of its own."""
    folder = tmp_path_factory.mktemp("models")
    base = save_base(folder / "base")
    folders = {name: save_adapter(folder / name, base, lora_config()) for name in (*TEMPLATES, "weights")}
    for name, template in TEMPLATES.items():
        save_tokenizer(folders[name], template)
    return {"base": base, **folders}


def settings(folders: dict[str, Path], *names: str) -> dict[str, Any]:
    return {"model_path": str(folders["base"]), "adapter": tuple(f"{name}={folders[name]}" for name in names)}


@pytest.fixture(scope="module")
def chats(folders: dict[str, Path]) -> Iterator[RunningServer]:
    with running_server(**settings(folders, *TEMPLATES, "weights")) as running:
        yield running


def ask(server: RunningServer, **fields: Any) -> Any:
    """Return the response to a chat, and the text of the prompt that the backend got, with its special tokens."""
    backend, prompts = server.service.backend, []
    submit = backend.submit
    backend.submit = lambda jobs, answer: (prompts.append(jobs[0].prompt_ids), submit(jobs, answer))
    try:
        response = server.post("/v1/chat/completions", {"messages": QUESTION, "max_tokens": 1, **fields})
    finally:
        backend.submit = submit
    assert response.status_code == 200, response.text
    return response.json(), AutoTokenizer.from_pretrained(sample_base()).decode(prompts[0])


@pytest.mark.parametrize("name", PROMPTS)
def test_each_model_is_prompted_by_its_own_template(name: str, chats: RunningServer) -> None:
    answer, prompt = ask(chats, model=name)
    assert answer["model"] == name
    start = "<|startoftext|>" if PROMPTS[name].startswith("User:") else ""  # of the tokenizer: it begins every text
    assert prompt == start + PROMPTS[name]


def test_the_default_model_is_prompted_by_its_own_template(folders: dict[str, Path]) -> None:
    with running_server(**settings(folders, "zephyr"), adapter_path=str(folders["brackets"])) as running:
        answer, prompt = ask(running)
    assert (answer["model"], prompt) == ("brackets", "[Hello]")


def test_vllm_gets_the_tokenizer_of_each_model(folders: dict[str, Path]) -> None:
    tokenizers = plan_serving(Settings(**settings(folders, *TEMPLATES, "weights")), "cpu").tokenizers
    assert {name: tokenizer.chat_template for name, tokenizer in tokenizers.items()} == {
        "base": None,
        "weights": None,
        **TEMPLATES,
    }


def test_adapters_with_different_vocabularies_are_not_served_together(folders: dict[str, Path], tmp_path: Path) -> None:
    other = save_adapter(tmp_path / "other", folders["base"], lora_config())
    save_tokenizer(other, None, additional_special_tokens=["<|im_end|>"])
    both = Settings(**settings({**folders, "other": other}, "zephyr", "other"))
    for start in (lambda: load_backend(both, asyncio.new_event_loop()), lambda: plan_serving(both, "cpu")):
        with pytest.raises(AdapterError, match=r"zephyr and .*other have different vocabularies \('<\|im_end\|>'"):
            start()


def test_a_base_with_another_vocabulary_than_its_adapter_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "own", folders["base"], lora_config())
    trained = AutoTokenizer.from_pretrained(sample_base()).train_new_from_iterator(["Hello"] * 9, 300)
    trained.save_pretrained(adapter)
    with running_server(**settings({**folders, "own": adapter}, "own")) as running:
        for path, prompt in (("chat/completions", {"messages": QUESTION}), ("completions", {"prompt": "Hello"})):
            assert running.post(f"/v1/{path}", {**prompt, "model": "own", "max_tokens": 1}).status_code == 200
            refused = running.post(f"/v1/{path}", {**prompt, "model": "base", "max_tokens": 1})
            assert refused.status_code == 400
            assert "another vocabulary than 'base'" in refused.json()["error"]["message"]
