"""Tokens that end a text, recorded beside an adapter."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from slm_adapters import AdapterError, load, load_adapters, write_model
from slm_testing.adapters.tiny_adapters import MakeBase, MakeModel, adapted, save_run


def end_ids(model: Any) -> Any:
    return model.generation_config.eos_token_id


@pytest.fixture
def base(make_base: MakeBase) -> Path:
    return make_base("llama")


@pytest.fixture
def runs(tiny: MakeModel, base: Path, tmp_path: Path) -> dict[str, Path]:
    """Adapters that end with nothing special, with token 7, and with token 1 or 9; the base ends with 1."""
    recorded: dict[str, Any] = {"text": None, "seven": {"eos_token_id": [1, 7]}, "nine": {"eos_token_id": 9}}
    folders = {}
    for index, (name, content) in enumerate(recorded.items()):
        model = adapted(tiny("llama"), "butterfly" if index == 2 else "lora")
        folders[name] = save_run(model, tmp_path / name, str(base))
        if content:
            (folders[name] / "generation_config.json").write_text(json.dumps(content))
    return folders


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize(("name", "expected"), [("text", 1), ("seven", [1, 7]), ("nine", [1, 9])])
def test_a_loaded_model_ends_with_the_tokens_of_its_adapter(
    name: str, expected: Any, merge: bool, runs: dict[str, Path]
) -> None:
    assert end_ids(load(runs[name], merge=merge, device="cpu").model) == expected


def test_a_merged_model_is_saved_with_them(runs: dict[str, Path], tmp_path: Path) -> None:
    write_model(load(runs["seven"], merge=True, device="cpu"), tmp_path / "merged")
    assert end_ids(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) == [1, 7]


def test_adapters_that_are_served_together_end_with_the_tokens_of_all(base: Path, runs: dict[str, Path]) -> None:
    loaded = load_adapters(base, runs, device="cpu")
    assert [end_ids(model) for model in loaded.models] == [[1, 7, 9]] * 2


@pytest.mark.parametrize("content", ["{", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [-1]}'])
def test_a_damaged_file_is_refused(content: str, runs: dict[str, Path]) -> None:
    (runs["seven"] / "generation_config.json").write_text(content)
    with pytest.raises(AdapterError, match=r"generation_config\.json"):
        load(runs["seven"], device="cpu")
