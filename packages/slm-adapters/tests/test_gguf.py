"""GGUF files as base models: the same logits as the model that was written, and one sentence for a bad file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from slm_adapters import AdapterError, load, load_adapters
from slm_adapters.base.base_lookup import find_base

HEADS, KV_HEADS = 4, 2
TOKENS = ["<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "ab", "Ġ"]
TEMPLATE = "{{ messages[0]['content'] }}"
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


def write(gguf: Any, model: PreTrainedModel, path: Path, kind: str = "F32") -> Path:
    """Write ``model`` as llama.cpp's converter does: the rows of q and k have the two halves of a head interleaved."""
    writer = gguf.GGUFWriter(path, "llama")
    write_config(writer, model.config)
    write_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    quantization = gguf.GGMLQuantizationType[kind]
    for name, weight in model.named_parameters():
        values, heads = weight.detach(), {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        if heads:
            values = values.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        target = f"{names.get_name(name.removesuffix('.weight'))}.weight"
        if kind == "F32" or values.dim() < 2:
            writer.add_tensor(target, values.contiguous().numpy())
        else:
            data = gguf.quants.quantize(values.contiguous().numpy(), quantization)
            writer.add_tensor(target, data, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_config(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def write_tokenizer(writer: Any) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = model(INPUT_IDS).logits
    return output


def test_a_gguf_file_gives_the_model_its_tokenizer_chat_template_and_end_token(
    gguf: Any, model: PreTrainedModel, tmp_path: Path
) -> None:
    loaded = load(write(gguf, model, tmp_path / "tiny.gguf"), device="cpu")
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-5, rtol=1e-4)
    assert loaded.tokenizer("abc")["input_ids"][-2:] == [28, 4]
    assert loaded.tokenizer.chat_template == TEMPLATE
    assert loaded.model.generation_config is not None
    assert loaded.model.generation_config.eos_token_id == loaded.tokenizer.eos_token_id == 1


@pytest.mark.parametrize(("kind", "error"), [("F16", 0.001), ("BF16", 0.01), ("Q8_0", 0.02), ("Q4_1", 0.2)])
def test_each_type_of_weights_is_read_to_its_precision(
    gguf: Any, model: PreTrainedModel, tmp_path: Path, kind: str, error: float
) -> None:
    loaded = load_adapters(write(gguf, model, tmp_path / "tiny.gguf", kind), {}, device="cpu")
    difference = (logits(loaded.models[0]) - logits(model)).norm() / logits(model).norm()
    assert 0 < difference < error
    loaded.models[0].to(torch.float64)  # refused for a model that is marked as quantised


def test_a_file_that_is_cut_short_is_refused_in_one_sentence(gguf: Any, model: PreTrainedModel, tmp_path: Path) -> None:
    path = write(gguf, model, tmp_path / "tiny.gguf")
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
    monkeypatch.setattr("slm_adapters.base.gguf_file.find_spec", lambda _: None)
    with pytest.raises(AdapterError, match="needs the package gguf, which is not installed; install it with"):
        find_base(tmp_path / "a.gguf")
