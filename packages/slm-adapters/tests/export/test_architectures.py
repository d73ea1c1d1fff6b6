"""Tiny models of every supported architecture as GGUF files: logits, and the layouts that llama.cpp expects."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from slm_adapters import AdapterError, export_gguf, load
from slm_adapters.export.layouts import FUSED_BY_HEAD, ROTARY_KEY, ROTARY_QUERY, Heads, Layout
from slm_testing.export_models import EXPORTED, save_model, save_tiny_model, tiny_model
from slm_testing.zoo.models import build

# Models whose settings transformers restores from GGUF, so that it verifies them by itself.
READ_BACK = ("gpt2", "llama", "mistral", "qwen2")


@pytest.mark.parametrize("name", EXPORTED)
def test_a_file_has_the_logits_of_the_model(name: str, tmp_path: Path) -> None:
    exported = export_gguf(save_tiny_model(tmp_path / name, name), tmp_path / "out", dtype="f32")
    assert exported.file == tmp_path / "out" / "out-f32.gguf"
    assert exported.verification.difference.relative < 1e-5
    assert exported.verification.reader.startswith("read back" if name in READ_BACK else "decoded")
    assert exported.verification.fits("f32")


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_transformers_reads_a_file_as_the_model_that_was_written(name: str, tmp_path: Path) -> None:
    exported = export_gguf(save_tiny_model(tmp_path / name, name), tmp_path / "out", dtype="f32")
    input_ids = torch.arange(4, 44)[None]
    with torch.inference_mode():
        expected, read = (model(input_ids).logits for model in (tiny_model(name), load(exported.file).model))
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "error", "types"),
    [
        ("f16", 5e-4, {"F16", "F32"}),
        ("bf16", 4e-3, {"BF16", "F32"}),
        ("q8_0", 1e-2, {"Q8_0", "F32"}),
        ("q4_0", 0.12, {"Q4_0", "Q8_0", "F32"}),
    ],
)
def test_each_type_is_as_exact_as_its_bits_allow(dtype: str, error: float, types: set[str], tmp_path: Path) -> None:
    exported: Any = export_gguf(save_tiny_model(tmp_path / "qwen2", "qwen2"), tmp_path / "out", dtype=dtype)
    read, model = load(exported.file).model, tiny_model("qwen2")
    for name, weight in model.named_parameters():
        difference = (read.get_parameter(name) - weight).norm() / weight.norm()
        assert difference < (error if weight.dim() == 2 else 1e-6), name
    assert {tensor.tensor_type.name for tensor in gguf_reader(exported.file).tensors} == types
    assert exported.verification.fits(dtype)


def test_rows_that_are_no_multiple_of_a_block_are_in_f16(tmp_path: Path) -> None:
    exported = export_gguf(save_tiny_model(tmp_path / "gpt2", "gpt2_untied"), tmp_path / "out", dtype="q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf_reader(exported.file).tensors}
    assert (types["blk.0.ffn_down.weight"], types["position_embd.weight"]) == ("Q8_0", "F32")
    odd = export_gguf(save_model(tmp_path / "odd", odd_model()), tmp_path / "odd-out", dtype="q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf_reader(odd.file).tensors}
    assert (types["blk.0.ffn_down.weight"], types["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def odd_model() -> PreTrainedModel:
    """Return a model with a layer of 90 inputs."""
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=90,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=320,
        bos_token_id=0,
        eos_token_id=1,
    )
    return Qwen2ForCausalLM(config).eval()


def gguf_reader(path: Path) -> Any:
    return pytest.importorskip("gguf").GGUFReader(path)


def rotate(x: Tensor, pairs: Tensor) -> Tensor:
    """Rotate the features ``pairs[0]`` and ``pairs[1]`` of each head of ``x``, ``[heads, size]``, by growing angles."""
    angles = torch.arange(1, pairs.shape[1] + 1) * 0.3
    first, second = x[:, pairs[0]], x[:, pairs[1]]
    rotated = x.clone()
    rotated[:, pairs[0]] = first * angles.cos() - second * angles.sin()
    rotated[:, pairs[1]] = first * angles.sin() + second * angles.cos()
    return rotated


@pytest.mark.parametrize(("layout", "heads"), [(ROTARY_QUERY, 4), (ROTARY_KEY, 2)], ids=["query", "key"])
def test_neighbours_are_rotated_as_the_halves_were(layout: Layout, heads: int) -> None:
    torch.manual_seed(0)
    size, features = 8, 16
    weight, x = torch.randn(heads * size, features), torch.randn(features)
    halves = torch.stack([torch.arange(size // 2), torch.arange(size // 2, size)])
    neighbours = torch.arange(size).reshape(-1, 2).T
    ours = rotate((weight @ x).reshape(heads, size), halves)
    written = layout.write(weight, Heads(4, 2))
    theirs = rotate((written @ x).reshape(heads, size), neighbours)
    # Scores are products of rotated queries and keys: the order of a head's features does not matter to them.
    torch.testing.assert_close(theirs, layout.write(ours.reshape(-1, 1), Heads(4, 2)).reshape(heads, size))
    torch.testing.assert_close(layout.read(written, Heads(4, 2)), weight)


def test_a_fused_projection_has_all_queries_first() -> None:
    heads, size = 3, 2
    rows = torch.tensor(
        [[head * 100 + part * 10 + i] for head in range(heads) for part in range(3) for i in range(size)]
    )
    written = FUSED_BY_HEAD.write(rows, Heads(heads, heads)).flatten().tolist()
    assert written == [head * 100 + part * 10 + i for part in range(3) for head in range(heads) for i in range(size)]
    assert torch.equal(FUSED_BY_HEAD.read(torch.tensor(written)[:, None], Heads(heads, heads)), rows)


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("llama", {"hidden_act": "relu"}, "hidden_act='relu'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type='dynamic'",
        ),
        (
            "llama_yarn",
            {"rope_parameters": EXPORTED["qwen2_yarn"][1]["rope_parameters"] | {"beta_fast": 16}},
            "beta_fast",
        ),
        ("qwen2", {"rope_parameters": {"rope_type": "llama3"} | EXPORTED["granite"][1]["rope_parameters"]}, "llama3"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True"),
        ("gemma2", {"query_pre_attn_scalar": 48}, "query_pre_attn_scalar=48"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping=None"),
        ("gemma2", {"layer_types": ["full_attention"] * 4}, "layer_types"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm=True"),
        ("smollm3", {"no_rope_layers": [0, 1, 1, 1]}, r"no_rope_layers=\[0, 1, 1, 1\]"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused_by_name(
    name: str, settings: dict[str, Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo_name, own = EXPORTED[name]
    monkeypatch.setitem(EXPORTED, "other", (zoo_name, own | settings))
    folder = save_tiny_model(tmp_path / "model", "other")
    with pytest.raises(AdapterError, match=rf"llama\.cpp does not compute .*{named}.*cannot be exported"):
        export_gguf(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", build("stablelm"))
    with pytest.raises(
        AdapterError, match=r"type 'stablelm' cannot be exported to GGUF; these can: GPT-2, Llama, .*Granite"
    ):
        export_gguf(folder, tmp_path / "out")


def test_a_window_that_llama_cpp_ignores_limits_the_context(tmp_path: Path) -> None:
    exported: Any = export_gguf(save_tiny_model(tmp_path / "model", "mistral_windowed"), tmp_path / "out", dtype="f32")
    assert ["sliding window" in note for note in exported.notes] == [True]
    assert gguf_reader(exported.file).fields["llama.context_length"].contents() == 16


def test_a_weight_too_large_for_f16_is_refused(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    with torch.no_grad():
        model.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] = 1e5
    with pytest.raises(
        AdapterError, match=r"ffn_up\.weight has the value 1e\+05, which is too large for f16; give --dtype"
    ):
        export_gguf(save_model(tmp_path / "model", model), tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
