"""The tokens of a GGUF file's texts, as slm-kv reads them with slm-adapters and alone: right, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from transformers import AutoTokenizer

from slm_adapters import export_gguf
from slm_kv import KVError, load
from slm_testing.adapters.pre_tokenized import tokenizer_named
from slm_testing.export_models import save_model, tiny_model

PRE_TOKENIZERS = ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken")
# Without combining marks: GGUF has no place for NFC, with which Qwen2's tokenizer composes them.
TEXT = "The  12 andiamo's 1212 v1.2.3 THEY'RE \n\n  it'S x=[12];//\n 我想 12a"


class Exported(NamedTuple):
    file: Path
    ids: list[int]  # of the text, by the tokenizer of the model's folder


@pytest.fixture(scope="module", params=[(pre, model) for pre in PRE_TOKENIZERS for model in ("llama", "qwen2", "gpt2")])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    pre, model = request.param
    folder = tmp_path_factory.mktemp("exported")
    save_model(folder / "model", tiny_model(model), tokenizer_named(pre))
    ids = AutoTokenizer.from_pretrained(folder / "model")(TEXT)["input_ids"]
    return Exported(export_gguf(folder / "model", folder / "out").file, ids)


def test_with_slm_adapters_the_tokens_are_those_of_the_model(exported: Exported) -> None:
    assert load(str(exported.file)).tokenizer(TEXT)["input_ids"] == exported.ids


def test_alone_the_tokens_are_those_of_the_model_or_the_file_is_refused(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("slm_kv.loading", "slm_kv.gguf.tokenizer"):
        monkeypatch.setattr(f"{module}.entry_points", lambda group: [])
    try:
        ids, refusal = load(str(exported.file)).tokenizer(TEXT)["input_ids"], None
    except KVError as error:
        ids, refusal = exported.ids, str(error)
    assert ids == exported.ids
    assert refusal is None or "install slm-adapters, which reads it, or load the model's folder" in refusal
