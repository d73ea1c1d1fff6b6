"""Adapters that are added and removed while requests run: each text is that of the weights it began with."""

import copy
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import PreTrainedModel

from slm_kv import Engine, KVError, SamplingParams, TextEngine, TransformersEngine
from slm_kv.linear.packed_linear import PackedLayer
from slm_testing.kv.lora_model import greedy_tokens_alone, make_lora_model
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, random_prompts

Attach = Callable[[PreTrainedModel], PreTrainedModel]
PROMPT = random_prompts(1, seed=3)[0]


def attach(name: str, seed: int = 0, config: Any = None) -> Attach:
    """Return a function that attaches a LoRA, or the adapter of ``config``, with random weights."""

    def with_adapter(model: PreTrainedModel) -> PreTrainedModel:
        adapted: Any = get_peft_model(model, copy.deepcopy(config) or lora(model), name)
        torch.manual_seed(seed)
        with torch.no_grad():
            for key, weight in adapted.named_parameters():
                if f".{name}" in key:
                    weight.copy_(torch.empty(weight.shape).normal_(1 if "ia3" in key else 0, 0.5))  # the same on a GPU
        result: PreTrainedModel = adapted
        return result

    return with_adapter


def lora(model: PreTrainedModel) -> LoraConfig:
    targets = ["c_attn", "c_proj"] if model.config.model_type == "gpt2" else ["q_proj", "down_proj"]
    return LoraConfig(r=2, target_modules=targets, fan_in_fan_out=model.config.model_type == "gpt2")


def alone(name: str, attach_adapter: Attach | None = None, new: int = 8) -> list[int]:
    """Return the tokens of transformers' generate, with a model that has this adapter from the start."""
    model = make_model(name)
    return greedy_tokens(attach_adapter(model).eval() if attach_adapter else model, PROMPT, new)


def tokens(engine: TextEngine, adapter: str | None, new: int = 8) -> list[int]:
    handle = engine.submit(PROMPT, greedy_params(new), adapter=adapter)
    while engine.busy:
        engine.step()
    assert handle.error is None
    return handle.token_ids


def make_engine(kind: str, model: Any, **options: Any) -> TextEngine:
    return Engine(model, page_size=4, max_pages=80, **options) if kind == "paged" else TransformersEngine(model)


both_engines = pytest.mark.parametrize("kind", ["paged", "transformers"])


@both_engines
@pytest.mark.parametrize("name", ["gpt2", "llama", "tied_llama", "qwen2"])
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_an_added_adapter_gives_the_texts_of_a_model_that_was_loaded_with_it(kind: str, name: str, method: str) -> None:
    targets = ["c_attn", "c_proj"] if name == "gpt2" else ["k_proj", "down_proj"]
    config = IA3Config(target_modules=targets, feedforward_modules=targets[1:]) if method == "ia3" else None
    with make_engine(kind, make_model(name)) as engine:
        engine.add_adapter("red", attach("red", config=config))
        assert tokens(engine, "red") == alone(name, attach("red", config=config))
        assert tokens(engine, "__base__") == alone(name)


@both_engines
def test_running_requests_finish_on_the_weights_they_began_with(kind: str) -> None:
    with make_engine(kind, make_model("llama")) as engine:
        engine.add_adapter("old", attach("old", seed=1))
        first, base = (engine.submit(PROMPT, greedy_params(20), adapter=name) for name in ("old", "__base__"))
        queued = [engine.submit(PROMPT, greedy_params(20), adapter="old") for _ in range(40)]
        for _ in range(4):
            engine.step()
        engine.add_adapter("new", attach("new", seed=2))
        engine.remove_adapter("old")
        with pytest.raises(KVError, match="no adapter is called 'old'; known adapters: new"):
            engine.submit(PROMPT, greedy_params(1), adapter="old")
        with pytest.raises(KVError, match="an adapter is called 'old' already"):
            engine.add_adapter("old", attach("old"))
        later = engine.submit(PROMPT, greedy_params(20), adapter="new")
        while engine.busy:
            engine.step()
        expected = alone("llama", attach("old", seed=1), 20)
        assert [handle.token_ids for handle in (first, *queued)] == [expected] * 41
        assert base.token_ids == alone("llama", new=20)
        assert later.token_ids == alone("llama", attach("new", seed=2), 20)
        assert len(engine.models) == 2


@both_engines
def test_a_removed_adapter_is_freed_when_its_last_request_has_ended(kind: str) -> None:
    with make_engine(kind, make_model("llama")) as engine:
        engine.add_adapter("red", attach("red"))
        weights = [weakref.ref(p) for key, p in engine.models[1].named_parameters() if "lora" in key]
        handle = engine.submit(PROMPT, greedy_params(5), adapter="red")
        engine.remove_adapter("red")
        engine.step()
        gc.collect()
        assert all(weight() is not None for weight in weights)
        engine.cancel(handle)
        engine.step()
        gc.collect()
        assert len(weights) == 8
        assert [weight() for weight in weights] == [None] * 8


@both_engines
def test_an_adapter_of_the_start_can_be_removed(kind: str) -> None:
    model = make_lora_model()
    expected = greedy_tokens_alone(model, [(PROMPT, "red"), (PROMPT, "blue")], 8)
    with make_engine(kind, model) as engine:
        weights = {
            name: [weakref.ref(p) for key, p in model.named_parameters() if f".{name}." in key]
            for name in ("red", "blue")
        }
        assert tokens(engine, "red") == expected[0]
        engine.remove_adapter("red")
        assert tokens(engine, "blue") == expected[1]
        with pytest.raises(KVError, match="the adapter that was active at the start was removed"):
            tokens(engine, None)
        engine.add_adapter("red", attach("red", seed=5))
        assert tokens(engine, "red") == alone("llama", attach("red", seed=5))
        engine.remove_adapter("blue")
        gc.collect()
        assert {weight() for refs in weights.values() for weight in refs} == {None}
        assert tokens(engine, "__base__") == alone("llama")
        engine.add_adapter("blue", attach("blue", seed=6))
        assert tokens(engine, "blue") == alone("llama", attach("blue", seed=6))


def logits(engine: Engine) -> torch.Tensor:
    handle = engine.submit(PROMPT, greedy_params(1, prompt_logprobs=20), adapter="__base__")
    while engine.busy:
        engine.step()
    return torch.tensor([[value for _, value in token.top] for token in handle.prompt_logprobs])


def test_the_logits_of_the_base_are_the_same_bits_after_adding_and_removing() -> None:
    with Engine(make_model("gpt2"), page_size=4, max_pages=80) as engine:
        before = logits(engine)
        for seed in range(3):
            engine.add_adapter("red", attach("red", seed))
            assert torch.equal(logits(engine), before)
            tokens(engine, "red")
            engine.remove_adapter("red")
            assert torch.equal(logits(engine), before)


def test_a_cached_prefix_is_not_reused_by_another_adapter_of_the_same_name() -> None:
    prompt = list(range(1, 20))
    with Engine(make_model("llama"), page_size=4, max_pages=80) as engine:
        for seed, reused in [(1, 0), (2, 0), (1, 16)]:  # page of the first adapter is still known
            engine.add_adapter("red", attach("red", seed))
            handle = engine.submit(prompt, greedy_params(2), adapter="red")
            while engine.busy:
                engine.step()
            assert handle.reused_tokens == reused
            engine.remove_adapter("red")


def test_an_adapter_that_cannot_be_used_leaves_the_engine_as_it_was() -> None:
    def fail(model: PreTrainedModel) -> PreTrainedModel:
        attach("red")(model)
        raise RuntimeError("damaged")

    def with_nan(model: PreTrainedModel) -> PreTrainedModel:
        adapted = attach("red")(model)
        with torch.no_grad():
            next(weight for key, weight in adapted.named_parameters() if "down_proj.lora_B" in key)[0] = torch.nan
        return adapted

    plain = make_model("tied_llama")
    state = {key: value.clone() for key, value in plain.state_dict().items()}
    with Engine(plain, page_size=4, max_pages=80) as engine:
        running = engine.submit(PROMPT, greedy_params(12))
        engine.step()
        with pytest.raises(RuntimeError, match="damaged"):
            engine.add_adapter("red", fail)
        with pytest.raises(KVError, match="NaN or infinite logits with this adapter"):
            engine.add_adapter("red", with_nan)
        with pytest.raises(KVError, match="the model has the adapters"):
            engine.add_adapter("red", attach("blue"))
        assert engine.adapters.names == ()
        assert engine.models == [plain]
        while engine.busy:
            engine.step()
        assert running.token_ids == alone("tied_llama", new=12)
    assert {key: torch.equal(value, state[key]) for key, value in plain.state_dict().items()} == dict.fromkeys(
        state, True
    )
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_a_lora_shares_packed_layers_and_two_adapters_share_weights_that_they_read() -> None:
    with Engine(make_model("llama"), page_size=4, max_pages=80) as engine:
        packed = {id(module) for module in engine.model.modules() if isinstance(module, PackedLayer)}
        engine.add_adapter("red", attach("red"))
        assert {id(module) for module in engine.models[1].modules() if isinstance(module, PackedLayer)} == packed
        targets = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
        for name in ("green", "grey"):
            engine.add_adapter(name, attach(name, config=IA3Config(**targets)))
        plain = [
            {key: p.data_ptr() for key, p in model.named_parameters() if "k_proj.base_layer.weight" in key}
            for model in engine.models[2:]
        ]
        assert plain[0]
        assert plain[0] == plain[1]


def test_an_adapter_with_its_own_end_of_text_ends_its_own_texts_only() -> None:
    text = alone("llama", attach("red"))
    end = next(token for token in reversed(text) if token != text[0])

    def with_end(model: PreTrainedModel) -> PreTrainedModel:
        assert model.generation_config
        model.generation_config.eos_token_id = [end]
        return attach("red")(model)

    with Engine(make_model("llama"), page_size=4, max_pages=80) as engine:
        engine.add_adapter("red", with_end)
        engine.add_adapter("blue", attach("blue", seed=0))  # the same weights
        reasons = []
        for name in ("red", "blue"):
            handle = engine.submit(PROMPT, SamplingParams(max_new_tokens=8, temperature=0), adapter=name)
            while engine.busy:
                engine.step()
            reasons.append((handle.finish_reason, len(handle.token_ids)))
    assert reasons == [("stop", text.index(end) + 1), ("length", 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attaching_on_another_thread_does_not_disturb_running_texts(dtype: torch.dtype) -> None:
    with Engine(make_model("gpt2").to(dtype), page_size=4, max_pages=80) as engine:
        expected = tokens(engine, "__base__", 40)
        for number in range(3):
            name = f"x{number}"
            base = engine.copy_base()
            with ThreadPoolExecutor(1) as threads:
                attaching = threads.submit(base.attach, name, attach(name, seed=number))
                texts = []
                while not attaching.done():
                    texts.append(tokens(engine, "__base__", 40))
            engine.install_adapter(attaching.result())
            assert texts == [expected] * len(texts)
            assert tokens(engine, name) != expected[:8]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_an_added_adapter_gives_the_texts_and_embeddings_of_a_cpu() -> None:
    with Engine(make_model("llama"), page_size=4, max_pages=80) as engine:
        engine.add_adapter("red", attach("red"))
        expected = engine.embed(PROMPT, adapter="red")
    with Engine(make_model("llama").cuda(), page_size=4, max_pages=80) as engine:
        engine.add_adapter("red", attach("red"))
        assert tokens(engine, "red") == alone("llama", attach("red"))
        torch.testing.assert_close(engine.embed(PROMPT, adapter="red"), expected, rtol=0, atol=1e-4)
