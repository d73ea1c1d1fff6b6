"""An engine compares itself with the model before it serves it: what differs is refused, and nothing is left behind."""

from typing import Any

import pytest
import torch
from transformers import masking_utils
from transformers.models.llama import modeling_llama

from slm_kv import Engine, KVError, UnsupportedModel
from slm_testing.kv.lora_model import make_lora_model
from slm_testing.kv.other_models import ORIGINAL_POSITIONS, make_other_model
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, random_prompts, run_to_end

DTYPES = [torch.float32, torch.bfloat16]
REFUSALS = {
    "bloom": "^BloomForCausalLM has attention code of its own",
    "mpt": "^MptForCausalLM has attention code of its own",
    "mamba": "^no layer of MambaForCausalLM uses transformers' attention interface",
    "lfm2": r"^only some layers of Lfm2ForCausalLM use transformers' attention interface \(1\)",
    "deepseek_v3": "^DeepseekV3Attention needs keys of 12 and values of 8 numbers",
    "diffllama": "^DiffLlamaAttention calls attention several times in a layer",
    "falcon_h1": "^FalconH1ForCausalLM gives other logits on pages",
    "roberta": "^RobertaSelfAttention needs attention that is not causal",
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", REFUSALS)
def test_a_model_whose_attention_pages_cannot_hold_is_refused_and_left_as_it_was(
    name: str, dtype: torch.dtype, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make_other_model(name).to(dtype).train()
    config: Any = model.config
    before = config._attn_implementation
    with pytest.raises(UnsupportedModel, match=rf"{REFUSALS[name]}.*; use the model's own generate$") as refusal:
        Engine(model)
    assert "\n" not in str(refusal.value)
    assert config._attn_implementation == before
    assert model.training
    assert {parameter.dtype for parameter in model.parameters() if parameter.dim() > 1} == {dtype}
    assert "does not support setting its attention implementation" not in capfd.readouterr().err


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["stablelm", "nemotron", "gemma3_multimodal"])
def test_models_that_pass_no_keyword_arguments_to_attention_and_multimodal_ones_are_served(
    name: str, dtype: torch.dtype
) -> None:
    model, prompts = make_other_model(name).to(dtype), random_prompts(3, seed=4)
    expected = [greedy_tokens(model, prompt, 10) for prompt in prompts]
    with Engine(model, page_size=3, max_pages=60, max_step_tokens=32) as engine:
        handles = engine.generate(prompts, greedy_params(10))
    assert [handle.error for handle in handles] == [None] * 3
    if dtype is torch.float32:
        assert [handle.token_ids for handle in handles] == expected


def mix_with_previous_token(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output + 0.01 * output.roll(1, dims=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_small_state_beside_attention_is_noticed(dtype: torch.dtype) -> None:
    model: Any = make_model("llama").to(dtype)
    hook = model.model.layers[1].mlp.register_forward_hook(mix_with_previous_token)
    with pytest.raises(KVError, match="LlamaForCausalLM gives other logits on pages"):
        Engine(model)
    hook.remove()
    Engine(model).close()


@pytest.mark.parametrize("kind", ["own", "chunked", "window"])
def test_masks_that_pages_do_not_follow_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, create = make_model("llama"), masking_utils.create_causal_mask
    masks = {
        "own": (lambda **options: torch.ones(1, 1, 1, 1, dtype=torch.bool), "a mask of its own"),
        "chunked": (
            lambda **options: create(
                **options, and_mask_function=lambda batch, head, query, key: query // 8 == key // 8
            ),
            "attention in chunks",
        ),
        "window": (
            lambda **options: create(**options, and_mask_function=masking_utils.sliding_window_overlay(8)),
            "a mask of window 8, so that its window is unclear",
        ),
    }
    mask, message = masks[kind]
    monkeypatch.setattr(modeling_llama, "create_causal_mask", mask)
    with pytest.raises(KVError, match=f"LlamaAttention .*{message}"):
        Engine(model)


def test_the_comparison_leaves_nothing_behind() -> None:
    model = make_lora_model()
    for key, parameter in model.named_parameters():
        parameter.requires_grad_("blue" in key)
    trainable = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    weights = {key: parameter.data_ptr() for key, parameter in model.named_parameters()}
    random_state = torch.get_rng_state()
    with Engine(model.train(), page_size=2, max_pages=40, packed=False) as engine:
        assert (engine.pool.used_pages, engine.pool.cached_pages, engine.busy) == (0, 0, False)
        assert model.active_adapter == "red"
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert {key: parameter.requires_grad for key, parameter in model.named_parameters()} == trainable
    assert {key: parameter.data_ptr() for key, parameter in model.named_parameters()} == weights


def test_rotary_scaling_by_the_longest_text_limits_the_context_to_where_texts_are_independent() -> None:
    model: Any = make_other_model("longrope")
    frequencies = model.model.rotary_emb.inv_freq.clone()
    prompts = [list(range(3, 11)), [40, 41, 42], list(range(3, 11))]
    expected = [greedy_tokens(model, prompt, 6) for prompt in prompts]
    with Engine(model, page_size=2, max_pages=60, max_step_tokens=32) as engine:
        assert engine.context_limits.positions == ORIGINAL_POSITIONS
        assert f"context: {ORIGINAL_POSITIONS} of 64 positions" in engine.summary
        together = [engine.submit(prompt, greedy_params(6)) for prompt in prompts[:2]]
        longest = engine.submit(list(range(60, 60 + ORIGINAL_POSITIONS - 1)), greedy_params(2))
        run_to_end(engine)
        again = engine.submit(prompts[2], greedy_params(6))
        run_to_end(engine)
        with pytest.raises(KVError, match=f"the model has {ORIGINAL_POSITIONS} positions"):
            engine.submit(prompts[0], greedy_params(ORIGINAL_POSITIONS))
    assert again.reused_tokens > 0
    assert longest.error is None
    assert [handle.token_ids for handle in (*together, again)] == expected
    assert torch.equal(model.model.rotary_emb.inv_freq, frequencies)


def test_a_model_that_depends_on_its_neighbours_at_every_length_is_refused() -> None:
    model: Any = make_model("llama")

    def scale_by_longest(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        return tuple(part * (1 + inputs[1].max() / 100) for part in output)

    model.model.rotary_emb.register_forward_hook(scale_by_longest)
    with pytest.raises(KVError, match="LlamaForCausalLM"):
        Engine(model)
