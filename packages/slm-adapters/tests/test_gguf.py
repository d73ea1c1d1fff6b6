"""GGUF files as base models: the same logits as the model that was written, and one sentence for a bad file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from slm_adapters import AdapterError, export_gguf, find_base, gguf_precision, load, load_adapters
from slm_testing.adapters.pre_tokenized import tokenizer_named
from slm_testing.export_models import byte_level_tokenizer, save_model, tiny_model
from slm_testing.gguf_files import TEMPLATE, TOKENS, write_gguf

HEADS, KV_HEADS = 4, 2
INPUT_IDS = torch.tensor([[2, 3, 4, 28, 9, 11]])


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def gguf() -> Any:
    return pytest.importorskip("gguf")


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = model(INPUT_IDS).logits
    return output


def test_a_gguf_file_gives_the_model_its_tokenizer_chat_template_and_end_token(
    gguf: Any, model: PreTrainedModel, tmp_path: Path
) -> None:
    loaded = load(write_gguf(model, tmp_path / "tiny.gguf"), device="cpu")
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-5, rtol=1e-4)
    assert loaded.tokenizer("abc")["input_ids"][-2:] == [28, 4]
    assert loaded.tokenizer.chat_template == TEMPLATE
    assert loaded.model.generation_config is not None
    assert loaded.model.generation_config.eos_token_id == loaded.tokenizer.eos_token_id == 1


@pytest.mark.parametrize(("kind", "error"), [("F16", 0.001), ("BF16", 0.01), ("Q8_0", 0.02), ("Q4_1", 0.2)])
def test_each_type_of_weights_is_read_to_its_precision(
    gguf: Any, model: PreTrainedModel, tmp_path: Path, kind: str, error: float
) -> None:
    loaded = load_adapters(write_gguf(model, tmp_path / "tiny.gguf", kind), {}, device="cpu")
    difference = (logits(loaded.models[0]) - logits(model)).norm() / logits(model).norm()
    assert 0 < difference < error
    loaded.models[0].to(torch.float64)  # refused for a model that is marked as quantised


def test_a_file_that_is_cut_short_is_refused_in_one_sentence(gguf: Any, model: PreTrainedModel, tmp_path: Path) -> None:
    path = write_gguf(model, tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(AdapterError, match=r"tiny\.gguf.*copy it again$"):
        load(path, device="cpu")


def test_a_missing_file_and_one_of_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"file .*none\.gguf does not exist; check the path"):
        find_base(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(AdapterError, match=r"text\.gguf is not a GGUF file"):
        find_base(str(tmp_path / "text.gguf"))


def test_without_the_package_gguf_the_message_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("slm_adapters.base.gguf.file.find_spec", lambda _: None)
    with pytest.raises(AdapterError, match="needs the package gguf, which is not installed; install it with"):
        find_base(tmp_path / "a.gguf")


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Path]:
    """``exported(tokenizer, name)``: a tiny model with a tokenizer as a GGUF file in f32."""

    def export(tokenizer: Any = None, name: str = "llama") -> Path:
        folder = save_model(tmp_path / "model", tiny_model(name), tokenizer)
        return export_gguf(folder, tmp_path / "out", dtype="f32").file

    return export


def test_text_is_split_as_the_file_says(exported: Callable[..., Path]) -> None:
    tokenizer = tokenizer_named("smollm")
    ids = tokenizer("in 12 rooms")["input_ids"]
    assert ids != byte_level_tokenizer()("in 12 rooms")["input_ids"]
    assert load(exported(tokenizer), device="cpu").tokenizer("in 12 rooms")["input_ids"] == ids


def test_the_start_token_is_added_as_the_file_says(exported: Callable[..., Path]) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    assert load(exported(tokenizer), device="cpu").tokenizer("in")["input_ids"][0] == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("llama_linear", r"scaled rotary positions \(linear\), which transformers leaves out"),
        ("llama_llama3", r"scaled rotary positions \(rope_freqs\)"),
        ("llama_biases", r"has [\d,]+ weights, of which transformers reads [\d,]+"),
    ],
)
def test_what_transformers_leaves_out_of_a_file_is_refused(
    name: str, reason: str, exported: Callable[..., Path]
) -> None:
    with pytest.raises(AdapterError, match=rf"{reason}.*give the model as a folder"):
        load(exported(name=name), device="cpu")


def test_the_precision_of_a_file_is_known(exported: Callable[..., Path], base: Path) -> None:
    assert gguf_precision(find_base(exported())) == "F32 (GGUF)"
    assert gguf_precision(find_base(base)) is None
