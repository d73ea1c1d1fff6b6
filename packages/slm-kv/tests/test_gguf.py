"""GGUF files: their blocks give the weights that they stand for, and models over them the logits of the dense ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from slm_kv import KVError, SamplingParams, create_engine, load
from slm_kv.gguf.blocks import TYPES, from_gguf_blocks
from slm_kv.linear.quantised_linear import QuantisedLinear, widening_exactly
from slm_testing.gguf_files import TOKENS, write_gguf

gguf: Any = pytest.importorskip("gguf")

SHAPE: dict[str, Any] = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2_SHAPE: dict[str, Any] = {"vocab_size": len(TOKENS), "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),  # with biases
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2_SHAPE)),  # Conv1D, tied
}
INPUT_IDS = torch.tensor([[2, 3, 4, 28, 9, 11, 20, 21, 5, 6]])


def model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    made = MODELS[name]()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2)
    return made.eval()


def dense(path: Path) -> Any:
    """The model that transformers reads, dequantised."""
    config: Any = getattr(transformers, "GgufConfig", None)
    options = {"quantization_config": config(dequantize=True)} if config else {}
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, **options).eval()


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_are_the_numbers_of_the_file(kind: str) -> None:
    kind_type, generator = gguf.GGMLQuantizationType[kind], np.random.default_rng(0)
    block, size = gguf.GGML_QUANT_SIZES[kind_type]
    data = generator.integers(0, 256, (70, 512 // block, size), dtype=np.uint8)  # 70 outputs fill one block and a half
    scales = generator.uniform(0.01, 0.1, (70, 512 // block, 2)).astype(np.float16)
    numbers = 2 if kind in ("Q4_1", "Q4_K") else 1
    data[..., : 2 * numbers] = scales[..., :numbers].view(np.uint8).reshape(70, -1, 2 * numbers)
    data = data.reshape(70, -1)
    weight = from_gguf_blocks(data, kind)
    assert (weight.outputs, weight.inputs, weight.format) == (70, 512, TYPES[kind].format)
    expected = torch.tensor(gguf.dequantize(data, kind_type))
    rounding = 2e-3 if kind == "Q4_K" else 1e-6  # of Q4_K, products of two scales are rounded to float16
    torch.testing.assert_close(weight.dense()[:70], expected, rtol=1e-6, atol=rounding * float(expected.abs().max()))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "BF16", "F32"])
def test_a_model_over_blocks_has_the_logits_of_the_dequantised_one(tmp_path: Path, name: str, kind: str) -> None:
    path = write_gguf(model(name), tmp_path / "tiny.gguf", kind)
    loaded: Any = load(str(path), device="cpu", dtype=torch.float32).model
    layers = [module for module in loaded.modules() if isinstance(module, QuantisedLinear)]
    assert bool(layers) is kind.startswith("Q")
    with torch.inference_mode(), widening_exactly(loaded.modules()):
        logits = loaded(INPUT_IDS).logits
        torch.testing.assert_close(logits, dense(path)(INPUT_IDS).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama, tied", "gpt2"])
def test_the_engine_serves_blocks_with_its_compiled_step(tmp_path: Path, name: str) -> None:
    path = write_gguf(model(name), tmp_path / "tiny.gguf", "Q8_0")
    loaded = load(str(path), device="cpu", dtype=torch.float32)
    with create_engine(loaded.model, loaded.tokenizer, max_pages=16) as engine:
        assert engine.kind == "paged"
        assert "linear layers of the file: " in engine.summary
        assert "compiled decode step" in engine.summary
        params = SamplingParams(max_new_tokens=8, temperature=0, ignore_eos=True)
        handle = engine.submit(INPUT_IDS[0].tolist(), params)
        while engine.busy:
            engine.step()
    expected = dense(path).generate(INPUT_IDS, max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    assert handle.token_ids == expected[0, INPUT_IDS.shape[1] :].tolist()
    with torch.inference_mode():  # the model is usable after the engine
        assert loaded.model(INPUT_IDS).logits.isfinite().all()


def test_an_automatic_dtype_is_that_of_matrices_in_16_bits(tmp_path: Path) -> None:
    path = write_gguf(model("llama"), tmp_path / "tiny.gguf", "BF16")
    asked: list[torch.dtype] = []

    def choose(dtype: torch.dtype, device: torch.device) -> torch.dtype:
        asked.append(dtype)
        return torch.float32

    assert load(str(path), device="cpu", dtype=choose).model.dtype is torch.float32
    assert asked == [torch.bfloat16]


def test_a_tensor_that_the_model_does_not_use_is_refused(tmp_path: Path) -> None:
    path = write_gguf(model("llama"), tmp_path / "tiny.gguf", "Q8_0", **{"rope_freqs.weight": torch.ones(8)})
    with pytest.raises(KVError, match=r"tensor rope_freqs\.weight, which LlamaForCausalLM does not use"):
        load(str(path), device="cpu")


def test_scaled_rotary_positions_are_refused(tmp_path: Path) -> None:
    path = write_gguf(model("llama"), tmp_path / "tiny.gguf", "Q8_0", rope_scaling="yarn")
    with pytest.raises(KVError, match=r"scales rotary positions \(yarn\), which is not read from GGUF; load the model"):
        load(str(path), device="cpu")


def test_files_that_are_missing_damaged_or_of_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KVError, match=r"file .*none\.gguf does not exist; check the path"):
        load(str(tmp_path / "none.gguf"))
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(KVError, match=r"text\.gguf is not a GGUF file"):
        load(str(tmp_path / "text.gguf"))
    path = write_gguf(model("llama"), tmp_path / "cut.gguf", "Q8_0")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(KVError, match=r"cut\.gguf cannot be read as a model .*; copy it again"):
        load(str(path), device="cpu")


def test_without_the_package_gguf_the_message_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("slm_kv.gguf.file.find_spec", lambda _: None)
    with pytest.raises(KVError, match=r"needs the package gguf, which is not installed; install it with pip install"):
        load(str(tmp_path / "a.gguf"))
