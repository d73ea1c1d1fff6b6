"""The engine without pages: each request gets the text that it would get alone."""

from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from slm_kv import Engine, InvalidLogits, KVError, SamplingParams, TransformersEngine, create_engine
from slm_testing.kv.lora_model import greedy_tokens_alone, make_lora_model
from slm_testing.kv.tiny_models import GROUPED_HEADS, SIZES, greedy_params, greedy_tokens, make_model, random_prompts
from slm_testing.kv.windowed_models import make_windowed_model

NEW = 9


def randomize(model: PreTrainedModel) -> PreTrainedModel:
    """Make the weights so large that a wrong computation changes the text."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.25)
    return model.eval()


def make(name: str) -> PreTrainedModel:
    recurrent: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2}
    longrope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 12}
    longrope |= {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]}
    factories: dict[str, Any] = {
        "mamba": lambda: MambaForCausalLM(MambaConfig(**recurrent, state_size=8)),
        "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)),
        "lfm2": lambda: Lfm2ForCausalLM(
            Lfm2Config(**SIZES, **GROUPED_HEADS, layer_types=["conv", "full_attention"], pad_token_id=0)
        ),
        "rwkv": lambda: RwkvForCausalLM(RwkvConfig(**recurrent, attention_hidden_size=32, context_length=64)),
        "recurrent_gemma": lambda: RecurrentGemmaForCausalLM(
            RecurrentGemmaConfig(**SIZES | {"num_hidden_layers": 3}, num_key_value_heads=1, intermediate_size=48)
        ),
        "longrope": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **GROUPED_HEADS, rope_parameters=longrope)),
        "roberta": lambda: RobertaForCausalLM(RobertaConfig(**SIZES, intermediate_size=48)),
    }
    if name == "gemma2":
        return make_windowed_model(name)
    return randomize(factories[name]()) if name in factories else make_model(name)


@torch.inference_mode()
def tokens_by_forward(model: Any, prompt: list[int], new: int) -> list[int]:
    """Greedy tokens, each from a forward pass over the whole text."""
    token_ids = list(prompt)
    for _ in range(new):
        token_ids.append(int(model(torch.tensor([token_ids])).logits[0, -1].argmax()))
    return token_ids[len(prompt) :]


@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "gemma2", "mamba", "bloom", "lfm2", "rwkv", "recurrent_gemma", "longrope"]
)
def test_interleaved_requests_get_the_tokens_of_plain_forward_passes(name: str) -> None:
    model = make(name)
    prompts = [[5], *random_prompts(3, seed=2)]
    expected = [tokens_by_forward(model, prompt, NEW) for prompt in prompts]
    with TransformersEngine(model, max_sequences=3) as engine:
        handles = [
            engine.submit(prompt, greedy_params(NEW), use_cache=use_cache)
            for prompt in prompts
            for use_cache in (True, False)
        ]
        while engine.busy:
            engine.step()
    assert [handle.error for handle in handles] == [None] * 8
    assert [handle.token_ids for handle in handles] == [tokens for tokens in expected for _ in range(2)]


def test_a_cache_that_requests_overwrite_is_not_used() -> None:
    with TransformersEngine(make("recurrent_gemma")) as engine:  # keeps its state in its layers
        assert engine.cache_fault == "it changes the logits"
        assert "no cache: it changes the logits" in engine.summary
        assert not engine.submit([5], greedy_params(1)).use_cache


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_new_tokens=12, seed=3, logprobs=2, prompt_logprobs=1),
        SamplingParams(max_new_tokens=12, seed=4, top_k=9, top_p=0.9, min_p=0.01, temperature=1.7),
        SamplingParams(max_new_tokens=12, seed=5, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5),
        SamplingParams(max_new_tokens=12, temperature=0, min_new_tokens=5, stop_token_ids=tuple(range(0, 97, 3))),
    ],
)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_sampling_equals_that_of_the_paged_engine(name: str, params: SamplingParams) -> None:
    prompts = random_prompts(3, seed=7)
    with Engine(make_model(name), packed=False) as engine:
        expected = engine.generate(prompts, params)
    with TransformersEngine(make_model(name)) as engine:
        handles = engine.generate(prompts, params)
    for handle, paged in zip(handles, expected, strict=True):
        assert (handle.token_ids, handle.finish_reason) == (paged.token_ids, paged.finish_reason)
        for tokens, others in ((handle.logprobs, paged.logprobs), (handle.prompt_logprobs, paged.prompt_logprobs)):
            assert [token.token_id for token in tokens] == [token.token_id for token in others]
            assert [token.logprob for token in tokens] == pytest.approx([token.logprob for token in others], abs=1e-4)
            assert [[id for id, _ in token.top] for token in tokens] == [
                [id for id, _ in token.top] for token in others
            ]


def test_the_generation_config_of_the_model_changes_no_token_and_is_left_as_it_was() -> None:
    model, prompt = make("mamba"), [5, 6, 7]
    expected = tokens_by_forward(model, prompt, NEW)
    config: Any = model.generation_config
    config.update(repetition_penalty=1.8, temperature=0.1, max_length=4, num_beams=3, suppress_tokens=expected[:2])
    before = config.to_dict()
    with TransformersEngine(model) as engine:
        assert engine.generate([prompt], greedy_params(NEW))[0].token_ids == expected
    assert model.generation_config is config
    assert config.to_dict() == before


def test_each_request_has_its_adapter_and_the_base_has_none() -> None:
    model = make_lora_model()
    prompts = random_prompts(3, seed=9)
    adapters = ["red", "blue", "__base__"]
    expected = greedy_tokens_alone(model, list(zip(prompts, ["red", "blue", "red"], strict=True)), NEW)
    expected[2] = greedy_tokens(make_model("llama"), prompts[2], NEW)
    with TransformersEngine(model) as engine:
        handles = [
            engine.submit(prompt, greedy_params(NEW), adapter=name)
            for prompt, name in zip(prompts, adapters, strict=True)
        ]
        while engine.busy:
            engine.step()
        with pytest.raises(KVError, match="'green'; known adapters: red, blue"):
            engine.check([1], greedy_params(1), adapter="green")
    assert [handle.token_ids for handle in handles] == expected


def test_requests_wait_are_cancelled_and_end_early_with_their_text() -> None:
    model = make("mamba")
    prompts = random_prompts(4, seed=1)
    with TransformersEngine(model, max_sequences=2) as engine:
        first, second, third, fourth = [engine.submit(prompt, greedy_params(NEW)) for prompt in prompts]
        engine.step()
        assert (engine.load().running, engine.load().waiting) == (2, 2)
        assert engine.cancel(first)
        assert engine.finish(second)
        assert engine.cancel(fourth)
        assert not engine.finish(first)
        assert (engine.load().running, engine.load().waiting) == (0, 1)
        while engine.busy:
            engine.step()
    assert [handle.finish_reason for handle in (first, second, third, fourth)] == [
        "cancelled",
        "length",
        "length",
        "cancelled",
    ]
    assert second.token_ids == tokens_by_forward(model, prompts[1], 1)
    assert third.token_ids == tokens_by_forward(model, prompts[2], NEW)


def test_close_cancels_what_runs_and_what_waits() -> None:
    engine = TransformersEngine(make("mamba"), max_sequences=1)
    handles = [engine.submit([5], greedy_params(NEW)) for _ in range(2)]
    engine.step()
    engine.close()
    assert [handle.finish_reason for handle in handles] == ["cancelled", "cancelled"]


def test_an_error_ends_one_request_only() -> None:
    model, bad_token = make("mamba"), 96

    def fail(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if (inputs[0] == bad_token).any():
            raise RuntimeError("a kernel failed")

    expected = tokens_by_forward(model, [5, 6], NEW)
    with TransformersEngine(model) as engine:
        model.get_input_embeddings().register_forward_pre_hook(fail)
        broken, fine = (engine.submit(prompt, greedy_params(NEW)) for prompt in ([bad_token], [5, 6]))
        while engine.busy:
            engine.step()
        assert (broken.finish_reason, broken.error) == ("error", "a kernel failed")
        assert fine.token_ids == expected
        with torch.no_grad():
            next(model.parameters())[7] = torch.nan  # the embedding of token 7
        (invalid,) = engine.generate([[7]], greedy_params(NEW))
    assert isinstance(invalid.exception, InvalidLogits)


@pytest.mark.parametrize(("on_full", "reason"), [("stop", "length"), ("error", "error")])
def test_a_request_ends_at_the_limit(on_full: Any, reason: str) -> None:
    with TransformersEngine(make("mamba"), max_tokens=8, on_full=on_full) as engine:
        (handle,) = engine.generate([[5, 6, 7]], greedy_params(20))
    assert handle.finish_reason == reason
    assert len(handle.token_ids) == 6  # the last one is never read


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("gpt2", {"max_tokens": 8}, "need 22 tokens of context and a request can have 8"),
        ("gpt2", {"max_tokens": 80}, None),
        ("llama", {"on_full": "window"}, "on_full='window' needs pages"),
        ("llama", {"max_sequences": 0}, "max_sequences=0 is not a whole number"),
        ("roberta", {}, "RobertaForCausalLM is not a causal language model: the logits of a token depend on later"),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_sentence(
    model: str, options: dict[str, Any], message: str | None
) -> None:
    def submit() -> None:
        with TransformersEngine(make(model), **options) as engine:
            engine.submit([5, 6, 7], greedy_params(20))

    if message is None:
        submit()
    else:
        with pytest.raises(KVError, match=message):
            submit()


def test_an_encoder_with_a_decoder_is_refused() -> None:
    t5: Any = T5ForConditionalGeneration(
        T5Config(vocab_size=97, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )
    with pytest.raises(KVError, match="not a causal language model: it has an encoder and a decoder"):
        TransformersEngine(t5)


def test_a_model_is_served_from_pages_if_possible() -> None:
    with create_engine(make("llama")) as paged, create_engine(make("mamba"), max_pages=3, page_size=4) as fallback:
        assert (paged.kind, paged.reason) == ("paged", None)
        assert fallback.kind == "transformers"
        assert fallback.reason == "no layer of MambaForCausalLM uses transformers' attention interface"
        assert fallback.context_limits.tokens == 12
    with create_engine(make("llama"), backend="transformers") as forced:
        assert (forced.kind, forced.reason) == ("transformers", None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mamba", {"backend": "paged"}, "uses transformers' attention interface"),
        ("mamba", {"weights": "q8"}, "q8 needs the paged engine"),
        ("llama", {"page_size": 0}, "page_size=0"),
        ("llama", {"page_size": 65}, "page_size=65 exceeds"),
        ("llama", {"backend": "vllm"}, "backend='vllm' is not one of auto, paged, transformers"),
    ],
)
def test_an_engine_that_cannot_do_what_was_asked_is_not_replaced(name: str, options: Any, message: str) -> None:
    with pytest.raises(KVError, match=message):
        create_engine(make(name), **options)
