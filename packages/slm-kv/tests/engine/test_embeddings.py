"""Embeddings: the normalised mean of transformers' own last hidden states, computed beside running texts."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from slm_kv import Engine, InvalidLogits, KVError, TextEngine, TransformersEngine
from slm_testing.kv.lora_model import make_lora_model
from slm_testing.kv.other_models import make_other_model
from slm_testing.kv.tiny_models import (
    MODEL_FACTORIES,
    greedy_params,
    greedy_tokens,
    make_model,
    random_prompts,
    run_to_end,
)
from slm_testing.kv.windowed_models import make_windowed_model

PROMPTS = [*random_prompts(6, longest=40, seed=3), [5]]


@torch.no_grad()
def expected(model: Any, prompt: list[int]) -> Tensor:
    states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1][0]
    return normalize(states.double().mean(0), dim=0).float()


def assert_close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=0, atol=2e-6)


def make_engine(kind: str, model: PreTrainedModel) -> TextEngine:
    if kind == "paged":
        return Engine(model, page_size=4, max_pages=80, max_step_tokens=32)
    return TransformersEngine(model)


@pytest.mark.parametrize("kind", ["paged", "transformers"])
@pytest.mark.parametrize("name", [*MODEL_FACTORIES, "opt"])
def test_it_is_the_mean_of_transformers_last_hidden_states(kind: str, name: str) -> None:
    model = make_model(name)
    wanted = [expected(model, prompt) for prompt in PROMPTS]
    with make_engine(kind, model) as engine:
        for prompt, embedding in zip(PROMPTS, wanted, strict=True):
            assert_close(engine.embed(prompt), embedding)
            assert not engine.busy
        assert engine.load().pages_used == 0


@pytest.mark.parametrize("name", ["mamba", "bloom", "lfm2", "falcon_h1", "mpt"])
def test_other_models_give_theirs_through_transformers(name: str) -> None:
    model = make_other_model(name)
    with TransformersEngine(model) as engine:
        for prompt in PROMPTS:
            assert_close(engine.embed(prompt), expected(model, prompt))


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_sliding_windows_do_not_matter(name: str) -> None:
    model = make_windowed_model(name)
    wanted = [expected(model, prompt) for prompt in PROMPTS]
    with Engine(model, page_size=4, max_pages=80, max_step_tokens=8, max_sequences=4) as engine:
        for prompt, embedding in zip(PROMPTS, wanted, strict=True):
            assert_close(engine.embed(prompt), embedding)


@pytest.mark.parametrize("kind", ["paged", "transformers"])
def test_each_adapter_and_the_base_have_their_own_also_in_a_batch(kind: str) -> None:
    model: Any = make_lora_model()
    names = ["red", "blue", "__base__"]
    wanted = {}
    for name in names:
        model.set_adapter("red" if name == "__base__" else name)
        for index, prompt in enumerate(PROMPTS):
            if name == "__base__":
                with model.disable_adapter():
                    wanted[name, index] = expected(model, prompt)
            else:
                wanted[name, index] = expected(model, prompt)
    model.set_adapter("red")
    with make_engine(kind, model) as engine:
        handles = {
            (name, index): engine.submit_embedding(prompt, adapter=name)
            for name in names
            for index, prompt in enumerate(PROMPTS)
        }
        while engine.busy:
            engine.step()
        for key, handle in handles.items():
            assert handle.finish_reason == "stop"
            assert handle.embedding is not None
            assert_close(handle.embedding, wanted[key])


def test_texts_that_run_meanwhile_are_not_changed_and_get_a_token_in_each_step() -> None:
    model, prompt = make_model("llama"), PROMPTS[0]
    expected_tokens = greedy_tokens(model, prompt, 20)
    embeddings = [expected(model, each) for each in PROMPTS]
    with Engine(model, page_size=4, max_pages=30, max_sequences=4, max_step_tokens=8) as engine:
        text = engine.submit(prompt, greedy_params(20))
        while not text.token_ids:
            engine.step()
        handles = [engine.submit_embedding(each) for each in PROMPTS]
        before = len(text.token_ids)
        for step in range(1, 6):
            engine.step()
            assert len(text.token_ids) == before + step
        run_to_end(engine)
        assert text.token_ids == expected_tokens
        for handle, embedding in zip(handles, embeddings, strict=True):
            assert handle.embedding is not None
            assert_close(handle.embedding, embedding)


def test_one_that_loses_its_pages_is_computed_again() -> None:
    model = make_model("llama")
    prompts = random_prompts(8, longest=30, seed=8)
    with Engine(model, page_size=2, max_pages=24, max_sequences=6, max_step_tokens=7) as engine:
        texts = [engine.submit(prompt, greedy_params(14)) for prompt in random_prompts(4, longest=6, seed=2)]
        handles = [engine.submit_embedding(prompt) for prompt in prompts]
        run_to_end(engine)
        assert engine.load().preemptions > 0
        assert {text.finish_reason for text in texts} == {"length"}
    for handle, prompt in zip(handles, prompts, strict=True):
        assert handle.embedding is not None
        assert_close(handle.embedding, expected(model, prompt))


def test_cached_prefixes_are_not_used_and_none_is_left() -> None:
    model, prompt = make_model("gpt2"), list(range(1, 30))
    wanted = expected(model, prompt)
    with Engine(model, page_size=4, max_pages=80) as engine:
        engine.generate([prompt], greedy_params(1))
        assert_close(engine.embed(prompt), wanted)
        other = [7, *prompt]
        engine.embed(other)
        (handle,) = engine.generate([other], greedy_params(1))
        assert handle.reused_tokens == 0


def test_a_text_does_not_wait_for_an_embedding_of_its_prefix() -> None:
    prompt = list(range(1, 60))
    with Engine(make_model("gpt2"), page_size=4, max_pages=80, max_step_tokens=16, max_sequences=4) as engine:
        engine.submit_embedding(prompt)
        engine.step()
        engine.submit(prompt, greedy_params(1))
        engine.step()
        assert engine.load().waiting == 1  # the embedding takes all rows of the step
        for _ in range(2):
            engine.step()
        # The embedding ended with 11 rows of the last step, in which the text began.
        assert (engine.load().running, engine.load().waiting) == (1, 0)
        run_to_end(engine)


def test_a_prompt_that_cannot_be_embedded_is_refused() -> None:
    with Engine(make_model("llama"), page_size=4, max_pages=80) as engine:
        for prompt, message in [
            ([], "empty"),
            ([1] * 65, "64 positions; shorten it"),
            ([97], "outside the vocabulary"),
        ]:
            with pytest.raises(KVError, match=message):
                engine.embed(prompt)
            with pytest.raises(KVError, match=message):
                engine.check_embedding(prompt)
        with pytest.raises(KVError, match="no adapter is called"):
            engine.embed([1], adapter="green")
        engine.embed([1] * 64)


@pytest.mark.parametrize("kind", ["paged", "transformers"])
def test_nan_is_an_error_of_this_request_only(kind: str) -> None:
    model = make_model("llama")
    with torch.no_grad():
        embeddings: Any = model.get_input_embeddings()
        embeddings.weight[9] = torch.nan
    wanted = expected(model, [3, 4])
    with make_engine(kind, model) as engine:
        with pytest.raises(InvalidLogits, match="NaN or infinite hidden states"):
            engine.embed([3, 9, 4])
        assert_close(engine.embed([3, 4]), wanted)
