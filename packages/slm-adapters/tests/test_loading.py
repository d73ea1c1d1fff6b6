"""Trained models and adapters are loaded bit for bit, merged or not."""

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from slm_adapters import AdapterError, four_bit_config, load, prepare_four_bit
from slm_adapters.base.quantization import dequantized, is_quantized
from slm_adapters.targets import linear_layers
from slm_testing.adapters.tiny_adapters import MakeBase, MakeModel, adapted, edit_json, logits, save_run, tokenizer

architectures = pytest.mark.parametrize("name", ["gpt2", "llama"])
methods = pytest.mark.parametrize("method", ["lora", "butterfly"])


@architectures
def test_a_whole_model_is_loaded_bit_for_bit_in_eval_mode(
    tiny: MakeModel, make_base: MakeBase, name: str, input_ids: torch.Tensor
) -> None:
    loaded = load(make_base(name), device="cpu")
    assert torch.equal(logits(loaded.model, input_ids), logits(tiny(name), input_ids))
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert (loaded.base, loaded.adapter) == (str(make_base(name)), None)
    assert loaded.tokenizer("abc")["input_ids"] == [3, 4, 5]


def test_a_bfloat16_checkpoint_is_loaded_in_float32_by_default(tiny: MakeModel, tmp_path: Path) -> None:
    tiny("gpt2").to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert load(tmp_path, device="cpu").model.dtype == torch.float32
    assert load(tmp_path, device="cpu", dtype=torch.bfloat16).model.dtype == torch.bfloat16


@architectures
@methods
def test_an_adapter_is_loaded_bit_for_bit_with_or_without_its_base_given(
    tiny: MakeModel, make_base: MakeBase, name: str, method: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    base, model = make_base(name), adapted(tiny(name), method)
    run, expected = save_run(model, tmp_path / "run", str(base)), logits(model, input_ids)
    assert not torch.allclose(expected, logits(tiny(name), input_ids), atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded_models = [load(run, device="cpu"), load(str(run), run, device="cpu"), load(base, run, device="cpu")]
    for loaded in loaded_models:
        assert torch.equal(logits(loaded.model, input_ids), expected)
        assert (loaded.base, loaded.adapter) == (str(base), str(run))
        assert not loaded.model.training
        assert not any(weight.requires_grad for weight in loaded.model.parameters())


def test_a_wrong_fan_in_fan_out_is_corrected_without_a_warning(
    tiny: MakeModel, make_base: MakeBase, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    model = adapted(tiny("gpt2"), "lora")
    run = save_run(model, tmp_path / "run", str(make_base("gpt2")))
    edit_json(run / "adapter_config.json", fan_in_fan_out=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(logits(load(run, device="cpu").model, input_ids), logits(model, input_ids))
        merged = load(run, merge=True, device="cpu").model
    torch.testing.assert_close(logits(merged, input_ids), logits(model, input_ids), rtol=1e-4, atol=1e-4)


@architectures
@methods
def test_a_merged_model_is_a_plain_model_with_the_same_logits(
    tiny: MakeModel, make_base: MakeBase, name: str, method: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    model = adapted(tiny(name), method)
    run = save_run(model, tmp_path / "run", str(make_base(name)))
    merged = load(run, merge=True, device="cpu").model
    assert type(merged) is type(tiny(name))
    assert set(merged.state_dict()) == set(tiny(name).state_dict())
    torch.testing.assert_close(logits(merged, input_ids), logits(model, input_ids), rtol=1e-4, atol=1e-4)


def test_merging_rounds_once_at_the_end_and_leaves_rotary_frequencies_exact(
    tiny: MakeModel, make_base: MakeBase, tmp_path: Path
) -> None:
    run = save_run(adapted(tiny("llama"), "lora"), tmp_path / "run", str(make_base("llama")))
    exact = load(run, merge=True, device="cpu").model
    rounded = load(run, merge=True, dtype=torch.bfloat16, device="cpu").model
    for name, weight in rounded.named_parameters():
        assert torch.equal(weight, exact.get_parameter(name).to(torch.bfloat16))
    assert {buffer.dtype for buffer in rounded.buffers()} == {torch.float32}


@pytest.fixture
def qlora(tiny: MakeModel, make_base: MakeBase, tmp_path: Path) -> Callable[[str, str], tuple[PeftModel, Path]]:
    """``qlora(name, method)``: an adapter over 4-bit weights, and its run folder."""
    pytest.importorskip("bitsandbytes")

    def make(name: str, method: str) -> tuple[PeftModel, Path]:
        base = make_base(name)
        whole = AutoModelForCausalLM.from_pretrained(base, quantization_config=four_bit_config(torch.float32))
        model = adapted(prepare_four_bit(whole, gradient_checkpointing=False), method)
        return model, save_run(model, tmp_path / "qlora", str(base), mode="qlora")

    return make


Qlora = Callable[[str, str], tuple[PeftModel, Path]]


@architectures
@methods
@pytest.mark.parametrize("avx512bf16", [False, True])
def test_an_adapter_trained_over_4_bit_weights_is_loaded_over_4_bit_weights(
    monkeypatch: pytest.MonkeyPatch,
    qlora: Qlora,
    name: str,
    method: str,
    avx512bf16: bool,
    input_ids: torch.Tensor,
) -> None:
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: avx512bf16)
    model, run = qlora(name, method)
    expected = logits(model, input_ids)
    assert torch.equal(logits(load(run, device="cpu").model, input_ids), expected)
    assert torch.equal(logits(load(run, run, device="cpu").model, input_ids), expected)
    whole = load(run, four_bit=False, device="cpu").model
    assert not any(is_quantized(layer) for layer in whole.modules())
    assert not torch.allclose(logits(whole, input_ids), expected, atol=1e-3)


@architectures
@methods
def test_merging_a_qlora_adapter_uses_the_dequantized_weights(
    qlora: Qlora, make_base: MakeBase, name: str, method: str, input_ids: torch.Tensor
) -> None:
    model, run = qlora(name, method)
    merged = load(run, merge=True, device="cpu").model
    assert not any(is_quantized(layer) for layer in merged.modules())
    assert {weight.dtype for weight in merged.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(merged, input_ids), logits(model, input_ids), rtol=1e-3, atol=1e-3)
    over_whole = load(run, merge=True, four_bit=False, device="cpu").model
    assert not torch.allclose(logits(over_whole, input_ids), logits(model, input_ids), atol=1e-3)


def test_a_whole_model_can_be_loaded_in_4_bits_and_dequantized(make_base: MakeBase) -> None:
    pytest.importorskip("bitsandbytes")
    base = make_base("gpt2")
    quantized_layers = linear_layers(load(base, four_bit=True, device="cpu").model)
    dequantized_layers = linear_layers(load(base, four_bit=True, merge=True, device="cpu").model)
    assert dequantized_layers.keys() == quantized_layers.keys()
    for name, layer in dequantized_layers.items():
        assert torch.equal(layer.weight.T, dequantized(quantized_layers[name]))  # type: ignore[operator]  # Conv1D


def test_a_checkpoint_uses_the_run_record_of_its_qlora_run(qlora: Qlora, input_ids: torch.Tensor) -> None:
    model, run = qlora("gpt2", "lora")
    checkpoint = run / "checkpoint-20"
    checkpoint.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run / name).rename(checkpoint / name)
    assert torch.equal(logits(load(checkpoint, device="cpu").model, input_ids), logits(model, input_ids))
    with pytest.raises(AdapterError, match=r"its run has not finished; give one of its checkpoints.*checkpoint-20"):
        load(run)


def test_without_bitsandbytes_a_four_bit_adapter_is_refused_with_the_alternatives(
    monkeypatch: pytest.MonkeyPatch, qlora: Qlora
) -> None:
    _, run = qlora("gpt2", "lora")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(AdapterError, match=r"bitsandbytes is not installed.*four_bit=False"):
        load(run)


def test_the_tokenizer_is_that_of_the_run_or_else_of_the_base(
    tiny: MakeModel, make_base: MakeBase, tmp_path: Path
) -> None:
    base = make_base("gpt2")
    run = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "run", str(base))
    run_tokenizer = tokenizer()
    run_tokenizer.add_tokens(["<own>"])
    run_tokenizer.save_pretrained(run)
    assert "<own>" in load(run, device="cpu").tokenizer.get_vocab()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (run / name).unlink()
    assert "<own>" not in load(run, device="cpu").tokenizer.get_vocab()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()
    with pytest.raises(AdapterError, match="has no tokenizer"):
        load(run)


@pytest.mark.parametrize("method", ["lora", "butterfly"])
def test_a_merge_needs_no_tokenizer(
    tiny: MakeModel, make_base: MakeBase, tmp_path: Path, method: str, input_ids: torch.Tensor
) -> None:
    base = make_base("llama")
    run = save_run(adapted(tiny("llama"), method), tmp_path / "run", str(base))
    expected = load(base, run, merge=True)
    assert expected.tokenizer.get_vocab()
    for folder in (base, run):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    merged = load(base, run, merge=True)
    assert torch.equal(logits(merged.model, input_ids), logits(expected.model, input_ids))
    assert merged.tokenizer_or_none is None
    with pytest.raises(AdapterError, match=rf"^{base} has no tokenizer; copy its tokenizer.json there$"):
        merged.tokenizer.get_vocab()


def test_a_base_provided_by_a_package_is_found_by_name(
    tiny: MakeModel, make_base: MakeBase, monkeypatch: pytest.MonkeyPatch, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    point = SimpleNamespace(name="sample", load=lambda: lambda: make_base("gpt2"))
    monkeypatch.setattr("slm_adapters.base.base_lookup.entry_points", lambda **_: [point])
    run = save_run(adapted(tiny("gpt2"), "butterfly"), tmp_path / "run", "sample")
    assert torch.equal(logits(load("sample", device="cpu").model, input_ids), logits(tiny("gpt2"), input_ids))
    assert load(run, device="cpu").base == load("sample", run, device="cpu").base == "sample"
    with pytest.raises(AdapterError, match=r"trained on 'sample', not on 'distilgpt2'"):
        load("distilgpt2", run)


def test_a_package_that_is_not_installed_is_named(
    tiny: MakeModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed: list[EntryPoint] = []
    monkeypatch.setattr("slm_adapters.base.base_lookup.entry_points", lambda **_: installed)
    run = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "run", "sample")
    message = "base 'sample' is the built-in model of slm-data; install slm-data"
    for path in ("sample", run):
        with pytest.raises(AdapterError, match=message):
            load(path)
