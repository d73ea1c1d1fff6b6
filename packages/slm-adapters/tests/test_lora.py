from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from slm_adapters import (
    AdapterError,
    LoraSettings,
    add_lora,
    check_targets,
    compute_dtype,
    default_targets,
    four_bit_config,
    lora_config,
    prepare_four_bit,
    quiet_bitsandbytes,
)

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT2 = GPT2Config(vocab_size=64, n_positions=32, n_embd=64, n_layer=2, n_head=4)
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL)),
}
TARGETS = {
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "llama": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    "neox": ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"],
}
IDS = torch.arange(20).reshape(2, 10)


@pytest.mark.parametrize("family", MODELS)
def test_the_default_targets_are_the_linear_layers_of_the_blocks(family: str) -> None:
    assert default_targets(MODELS[family]()) == TARGETS[family]


@pytest.mark.parametrize("family", MODELS)
def test_lora_changes_nothing_at_the_start_and_trains_only_itself(family: str) -> None:
    torch.manual_seed(0)
    model = MODELS[family]().eval()
    before = model(IDS).logits.detach().clone()
    adapted = add_lora(model, LoraSettings(r=4)).eval()
    assert torch.equal(adapted(input_ids=IDS).logits, before)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


def test_trainable_parameters_are_rank_times_both_sides_of_each_target() -> None:
    adapted = add_lora(MODELS["gpt2"](), LoraSettings(r=3, target_modules=("c_attn",)))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == 2 * 3 * (64 + 3 * 64)  # two blocks, 64 -> 192


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("c_atn",), "did you mean c_attn"),
        (("c_attn", "q_proj"), "'q_proj' matches no linear layer of this model; .*it has c_attn, c_fc, c_proj"),
        (("lm_head",), "'lm_head'"),
        (("attn",), "'attn'"),
    ],
)
def test_each_target_must_exist(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        check_targets(MODELS["gpt2"](), names)


def test_a_target_may_be_named_by_the_end_of_its_path() -> None:
    adapted = add_lora(MODELS["gpt2"](), LoraSettings(target_modules=("mlp.c_proj",)))
    layers = {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert len(layers) == 2
    assert all(layer.endswith("mlp.c_proj") for layer in layers)


@pytest.mark.parametrize(("family", "stored_in_out"), [("gpt2", True), ("llama", False)])
def test_fan_in_fan_out_follows_the_layers(family: str, stored_in_out: bool) -> None:
    assert lora_config(MODELS[family](), LoraSettings()).fan_in_fan_out is stored_in_out


def test_peft_alone_loads_what_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS["gpt2"]()
    model.save_pretrained(tmp_path / "base")
    adapted = add_lora(model, LoraSettings(r=4, use_rslora=True))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter")
    )
    assert torch.equal(again.eval()(input_ids=IDS).logits, adapted.eval()(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"r": 0}, "--lora_r 0"), ({"alpha": 0}, "--lora_alpha 0"), ({"dropout": 1}, "--lora_dropout 1")],
)
def test_settings_that_cannot_be_are_refused(setting: dict[str, int], said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        LoraSettings(**setting)


def test_a_4_bit_base_trains_its_adapter_and_nothing_else_and_says_nothing(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    full = MODELS["gpt2"]()
    full.save_pretrained(tmp_path)
    capfd.readouterr()
    dtype = compute_dtype(torch.device("cpu"), bf16=False)
    with quiet_bitsandbytes():
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path, dtype=torch.float32, quantization_config=four_bit_config(dtype), device_map={"": "cpu"}
        )
    model = prepare_four_bit(model, gradient_checkpointing=False)
    assert lora_config(model, LoraSettings()).fan_in_fan_out is False
    adapted = add_lora(model, LoraSettings(r=4))
    with quiet_bitsandbytes():
        loss = adapted(input_ids=IDS, labels=IDS).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all("lora_" in name for name, p in adapted.named_parameters() if p.grad is not None)
    assert model.get_input_embeddings().weight.dtype == torch.float32
    blocks = [
        p.nbytes for n, p in model.named_parameters() if ".h." in n and "lora" not in n and p.dtype == torch.uint8
    ]
    assert sum(blocks) * 8 == sum(p.nbytes for n, p in full.named_parameters() if n.endswith("weight") and "c_" in n)
    said = capfd.readouterr()
    assert "gemm_4bit" not in said.err + said.out
    assert not [w for w in recwarn if "gemm_4bit" in str(w.message)]
