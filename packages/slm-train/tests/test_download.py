"""Where the weights of a base model come from: the hub, its cache, a folder or a GGUF file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import GPT2Config, PreTrainedTokenizerFast

from slm_adapters import BaseLocation, export_gguf, find_base
from slm_data import sample_base
from slm_train.model.base_model import BaseModel
from slm_train.model.download import will_be_downloaded
from slm_train.run_recording import _base_precision

REVISION = "0" * 40


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def base_at(source: BaseLocation | None) -> BaseModel:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(sample_base())
    return BaseModel("name", "location", GPT2Config(), tokenizer, source)


@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_weights_on_the_hub_are_downloaded_unless_they_are_in_the_cache(hub_cache: Path, file: str) -> None:
    base = base_at(find_base("distilgpt2"))
    repository = hub_cache / "models--distilbert--distilgpt2"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    (snapshot / "config.json").write_text("{}")  # the configuration is loaded before the weights
    assert will_be_downloaded(base)
    (snapshot / file).write_text("")
    assert not will_be_downloaded(base)


def test_nothing_is_downloaded_for_a_folder_a_new_model_or_a_hub_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not will_be_downloaded(base_at(find_base("sample")))
    assert not will_be_downloaded(base_at(None))
    assert not will_be_downloaded(base_at(replace(find_base("distilgpt2"), hub_error=OSError())))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not will_be_downloaded(base_at(find_base("distilgpt2")))


def test_the_weights_of_a_gguf_file_are_not_downloaded(tmp_path: Path) -> None:
    source = BaseLocation("model.gguf", str(tmp_path), None, is_portable=False, gguf_file="model.gguf")
    assert not will_be_downloaded(base_at(source))


def test_weights_from_a_gguf_file_are_plain_and_the_run_records_their_precision(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    file = export_gguf("sample", tmp_path / "stories", dtype="q8_0").file
    source = find_base(file)
    base = replace(base_at(source), location=source.location)
    model = base.load_weights(dtype=torch.float32)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not hasattr(model.config, "quantization_config")
    assert model.config.n_positions == 512  # transformers takes 1,024
    assert _base_precision(base) == {"base_precision": "Q8_0 (GGUF)"}
    assert _base_precision(base_at(find_base("sample"))) == {}
