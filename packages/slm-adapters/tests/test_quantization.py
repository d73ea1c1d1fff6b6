"""QLoRA on a CPU: 4-bit bases, training over them, and bitsandbytes' warnings."""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from slm_adapters import (
    AdapterError,
    LoraSettings,
    add_lora,
    compute_dtype,
    default_targets,
    four_bit_config,
    lora_config,
    prepare_four_bit,
    quiet_bitsandbytes,
)
from slm_adapters.targets import linear_layers

MakeModel = Callable[[str], PreTrainedModel]

pytest.importorskip("bitsandbytes")

GEMM = "bitsandbytes.backends.cpu.ops"  # the module that warns about its missing kernel


def four_bit(folder: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=four_bit_config(torch.float32)
    )
    return loaded


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tiny: MakeModel, tmp_path: Path) -> Path:
    tiny(request.param).save_pretrained(tmp_path)
    return tmp_path


def test_the_weights_get_smaller_and_the_embeddings_stay_float32(folder: Path) -> None:
    original = AutoModelForCausalLM.from_pretrained(folder)
    quantized = prepare_four_bit(four_bit(folder), gradient_checkpointing=False)
    assert default_targets(quantized) == default_targets(original)
    layers, quantized_layers = linear_layers(original), linear_layers(quantized)
    for name, layer in quantized_layers.items():
        packed = layers[name].weight.numel() // 2  # two weights a byte
        assert layer.weight.nbytes == packed
    unquantized = [
        weight for name, weight in quantized.named_parameters() if name.rpartition(".")[0] not in quantized_layers
    ]
    assert {weight.dtype for weight in unquantized} == {torch.float32}
    assert quantized.get_memory_footprint() < 0.4 * original.get_memory_footprint()
    assert not any(weight.requires_grad for weight in quantized.parameters())


def test_the_logits_of_a_4_bit_base_are_close_to_those_in_float32(folder: Path, input_ids: torch.Tensor) -> None:
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(input_ids).logits.flatten()
        actual = four_bit(folder)(input_ids).logits.flatten()
    assert torch.corrcoef(torch.stack([expected, actual]))[0, 1] > 0.95
    assert not torch.equal(expected, actual)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_step_trains_only_the_adapter(folder: Path, input_ids: torch.Tensor, gradient_checkpointing: bool) -> None:
    base = prepare_four_bit(four_bit(folder), gradient_checkpointing=gradient_checkpointing)
    adapted = add_lora(base, LoraSettings(r=4, dropout=0)).train()
    before = {name: weight.detach().clone() for name, weight in adapted.named_parameters()}
    optimizer = torch.optim.AdamW([weight for weight in adapted.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = adapted(input_ids=input_ids, labels=input_ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0] < 10
    assert {"lora_" in name for name, weight in adapted.named_parameters() if weight.grad is not None} == {True}
    changed = {name for name, weight in adapted.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if "lora_" in name}


@pytest.fixture
def _cpu_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make bitsandbytes take any CPU for one with AVX512-BF16, where it repacks weights at an evaluation."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)


@pytest.mark.usefixtures("_cpu_with_bf16")
def test_an_evaluation_changes_neither_base_nor_gradients(folder: Path, input_ids: torch.Tensor) -> None:
    base = prepare_four_bit(four_bit(folder), gradient_checkpointing=False)
    adapted = add_lora(base, LoraSettings(r=4, dropout=0))

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)  # dropout
        adapted.train().zero_grad()
        adapted(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        return [weight.grad.clone() for weight in adapted.parameters() if weight.grad is not None]

    frozen = {name: weight.detach().clone() for name, weight in adapted.named_parameters()}
    before = gradients()
    adapted.eval()
    logits(adapted, input_ids)
    after = gradients()
    assert before
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(torch.equal(weight, frozen[name]) for name, weight in adapted.named_parameters())


def logits(model: torch.nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        actual: torch.Tensor = model(input_ids=input_ids, use_cache=False).logits
    return actual


@pytest.mark.usefixtures("_cpu_with_bf16")
def test_widths_that_are_not_a_multiple_of_a_quantization_block_are_evaluated_too(
    tmp_path: Path, input_ids: torch.Tensor
) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=48, n_positions=32, n_embd=48, n_layer=1, n_head=4)).save_pretrained(tmp_path)
    model = prepare_four_bit(four_bit(tmp_path), gradient_checkpointing=False)
    assert logits(model.eval(), input_ids).isfinite().all()


def test_gpt2s_layers_are_not_transposed_in_4_bits(tiny: MakeModel, tmp_path: Path) -> None:
    tiny("gpt2").save_pretrained(tmp_path)
    assert lora_config(tiny("gpt2"), LoraSettings()).fan_in_fan_out is True
    assert lora_config(four_bit(tmp_path), LoraSettings()).fan_in_fan_out is False


def test_no_warning_is_shown_while_a_four_bit_model_is_loaded_and_trained(
    tiny: MakeModel, tmp_path: Path, input_ids: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    tiny("gpt2").save_pretrained(tmp_path)
    with quiet_bitsandbytes(), warnings.catch_warnings():
        warnings.simplefilter("error")
        base = prepare_four_bit(four_bit(tmp_path), gradient_checkpointing=True)
        adapted = add_lora(base, LoraSettings(r=4)).train()
        adapted(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        logging.getLogger(GEMM).warning("Failed to load CPU gemm_4bit_forward")
    assert [record for record in caplog.records if record.name.startswith("bitsandbytes")] == []


def test_suppressing_warnings_ends_with_the_block_even_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    level = logging.WARNING
    caplog.set_level(level, "bitsandbytes")  # a run of slm-train in this process leaves it at ERROR
    with pytest.raises(KeyError), quiet_bitsandbytes():
        _log_and_fail()
    assert logging.getLogger("bitsandbytes").level == level
    logging.getLogger(GEMM).warning("afterwards")
    assert [record.message for record in caplog.records] == ["a real error is heard", "afterwards"]


def _log_and_fail() -> None:
    logging.getLogger(GEMM).error("a real error is heard")
    raise KeyError


def test_without_bitsandbytes_the_error_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(AdapterError, match=r"qlora needs bitsandbytes, which is not installed.*use --mode lora"):
        four_bit_config(torch.float32)


def test_weights_are_nf4_with_double_quantization_and_the_given_compute_dtype() -> None:
    config = four_bit_config(torch.bfloat16)
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("device", "bf16", "dtype"),
    [
        ("cuda", True, torch.bfloat16),
        ("cuda", False, torch.float16),
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
    ],
)
def test_the_compute_dtype_fits_the_device(device: str, bf16: bool, dtype: torch.dtype) -> None:
    assert compute_dtype(torch.device(device), bf16) is dtype
