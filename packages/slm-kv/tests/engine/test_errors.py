"""Requests and models that are refused, and errors that end one request and no other."""

from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from slm_kv import Engine, InvalidLogits, KVError, SamplingParams, create_engine
from slm_kv.attention import probe
from slm_testing.kv.tiny_models import (
    POSITIONS,
    VOCABULARY,
    greedy_params,
    greedy_tokens,
    make_model,
    random_prompts,
    run_to_end,
)
from slm_testing.kv.windowed_models import make_windowed_model


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"page_size": 0}, r"page_size=0 is not a whole number of at least 1"),
        ({"page_size": -4}, r"page_size=-4 is not a whole number"),
        ({"page_size": POSITIONS + 1}, rf"page_size={POSITIONS + 1} exceeds the model's context of {POSITIONS}"),
        ({"max_pages": 0}, r"max_pages=0 is not a whole number"),
        ({"max_sequences": 0}, r"max_sequences=0 is not a whole number"),
        ({"max_sequences": 8, "max_step_tokens": 7}, r"max_step_tokens=7 is not a whole number of at least 8"),
        ({"on_full": "grow"}, r"on_full='grow' is not one of refuse, stop, window, error"),
    ],
)
def test_an_engine_of_invalid_size_is_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(KVError, match=message):
        Engine(make_model("gpt2"), **sizes)


def test_a_request_that_can_never_be_answered_is_refused_and_the_engine_goes_on() -> None:
    model = make_model("gpt2")
    with Engine(model, page_size=4, max_pages=5) as engine:
        for prompt, new, message in [
            ([], 1, "the prompt is empty"),
            ("text", 1, "the engine has no tokenizer"),
            ([1, VOCABULARY], 1, f"token id {VOCABULARY} is outside the vocabulary of {VOCABULARY}"),
            ([1] * (POSITIONS + 1), 1, f"{POSITIONS + 1} tokens and the model has {POSITIONS} positions"),
            ([1] * 21, 1, "max_pages=5 pages of 4 hold 20; give at least 6 pages"),
            ([1] * 10, 12, "need 21 tokens of context and the pages hold 20"),
        ]:
            with pytest.raises(KVError, match=message):
                engine.submit(prompt, greedy_params(new))
        with pytest.raises(KVError, match="no adapter is called 'poet'; known adapters: none"):
            engine.submit([1], greedy_params(1), adapter="poet")
        assert not engine.busy
        fits = engine.submit([1] * 10, greedy_params(11))
        run_to_end(engine)
    assert fits.token_ids == greedy_tokens(make_model("gpt2"), [1] * 10, 11)


def test_a_text_with_a_token_beyond_the_embeddings_is_refused() -> None:
    larger: Any = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 1, "b": VOCABULARY}, unk_token="a"))
    )
    larger.backend_tokenizer.pre_tokenizer = Whitespace()
    with Engine(make_model("gpt2"), larger) as engine:
        with pytest.raises(
            KVError, match=f"the prompt has the token 'b', which is outside the vocabulary of {VOCABULARY}"
        ):
            engine.submit("a b", greedy_params(1))
        engine.submit("a", greedy_params(1))
        run_to_end(engine)


def test_nan_logits_end_only_the_request_that_has_them() -> None:
    model = make_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight[9] = torch.nan  # a sequence that reaches this position has NaN logits
    with Engine(model, page_size=4, max_pages=40) as engine:
        short = engine.submit([1, 2, 3], greedy_params(6))
        long = engine.submit([1, 2, 3], greedy_params(10))
        sampled = engine.submit([4, 5, 6], SamplingParams(max_new_tokens=10, ignore_eos=True))
        run_to_end(engine)
        assert engine.pool.used_pages == 0
    assert (short.finish_reason, long.finish_reason, sampled.finish_reason) == ("length", "error", "error")
    assert long.error is not None
    assert "NaN logits" in long.error
    assert long.token_ids[:6] == short.token_ids


def test_nan_in_a_prompt_does_not_spoil_a_known_prefix() -> None:
    model = make_model("llama")
    expected = greedy_tokens(model, [1, 2, 3, 4, 5], 4)
    with torch.no_grad():
        # Although masked, it makes earlier rows NaN as well: 0 * NaN is NaN.
        model.get_input_embeddings().weight[96] = torch.nan
    with Engine(model, page_size=2, max_pages=40) as engine:
        failing = engine.submit([1, 2, 3, 4, 96], greedy_params(4))
        run_to_end(engine)
        fine = engine.submit([1, 2, 3, 4, 5], greedy_params(4))
        run_to_end(engine)
    assert failing.finish_reason == "error"
    assert (fine.token_ids, fine.error) == (expected, None)


def test_a_prompt_cancelled_before_its_nan_is_noticed_does_not_spoil_a_known_prefix() -> None:
    model = make_model("llama")
    expected = greedy_tokens(model, [1, 2, 3, 4, 5], 4)
    with torch.no_grad():
        model.get_input_embeddings().weight[96] = torch.nan
    with Engine(model, page_size=2, max_pages=40, max_sequences=2, max_step_tokens=6) as engine:
        failing = engine.submit([1, 2, 3, 4, 96, 5, 6, 7, 8, 9], greedy_params(4))
        engine.step()  # six of its tokens: nothing is sampled yet
        meanwhile = engine.submit([1, 2, 3, 4, 5], greedy_params(4))
        engine.step()
        engine.cancel(failing)
        run_to_end(engine)
        afterwards = engine.submit([1, 2, 3, 4, 5], greedy_params(4))
        run_to_end(engine)
    assert failing.token_ids == []
    assert (meanwhile.token_ids, meanwhile.error) == (expected, None)
    assert (afterwards.token_ids, afterwards.error) == (expected, None)
    assert afterwards.reused_tokens == 4


def test_an_exception_in_the_model_ends_only_the_request_that_causes_it() -> None:
    model = make_model("llama")
    failing = 96

    def trip(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if (inputs[0] == failing).any():
            raise RuntimeError("a kernel failed")

    requests = [[1, 2, 3], [5, failing, 7], [8, 9]]
    with Engine(model, page_size=4, max_pages=40) as engine:
        hook = model.get_input_embeddings().register_forward_pre_hook(trip)
        handles = engine.generate(requests, greedy_params(4))
        hook.remove()
        assert engine.pool.used_pages == 0
    assert [handle.finish_reason for handle in handles if failing in handle.prompt_ids] == ["error"]
    assert handles[1].error == "a kernel failed"
    for prompt, handle in zip(requests, handles, strict=True):
        if handle.finish_reason == "length":
            assert handle.token_ids == greedy_tokens(make_model("llama"), prompt, 4)
    assert sum(handle.finish_reason == "length" for handle in handles) >= 1


def test_an_exception_in_sampling_ends_only_that_request(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    with Engine(model, page_size=4, max_pages=40) as engine:
        broken, fine = engine.submit([1, 2], greedy_params(4)), engine.submit([3, 4], greedy_params(4))
        monkeypatch.setattr(engine._sequences[broken.id].sampler, "sample", None)
        run_to_end(engine)
    assert (broken.finish_reason, fine.finish_reason) == ("error", "length")


def test_cancel_releases_the_pages_at_once_and_is_reported_once() -> None:
    with Engine(make_model("gpt2"), page_size=2, max_pages=40, prefix_caching=False) as engine:
        handle = engine.submit([1, 2, 3, 4, 5], greedy_params(20))
        engine.step()
        assert engine.pool.used_pages > 0
        assert engine.cancel(handle)
        assert engine.pool.used_pages == 0
        assert not engine.cancel(handle)
        (update,) = engine.step()
        assert (update.handle, update.finished, handle.finish_reason) == (handle, True, "cancelled")
        assert not engine.busy


def test_the_end_of_text_stops_a_request_unless_it_is_ignored() -> None:
    model = make_model("llama")
    prompt = random_prompts(1, seed=2)[0]
    text = greedy_tokens(model, prompt, 12)
    model.generation_config.eos_token_id = [text[4]]
    first = text.index(text[4])
    with Engine(model, page_size=4, max_pages=40) as engine:
        stops = engine.submit(prompt, SamplingParams(max_new_tokens=12, temperature=0))
        goes_on = engine.submit(prompt, greedy_params(12))
        stopped = engine.submit(prompt, greedy_params(12, stop_token_ids=(text[2],)))
        run_to_end(engine)
    assert (stops.token_ids, stops.finish_reason) == (text[: first + 1], "stop")
    assert (goes_on.token_ids, goes_on.finish_reason) == (text, "length")
    assert stopped.token_ids == text[: text.index(text[2]) + 1]


def test_a_model_with_its_own_attention_is_refused() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(KVError, match="BloomForCausalLM"):
        Engine(model)


def test_a_model_with_unsupported_attention_options_is_refused_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_windowed_model("gemma2")
    before = model.config._attn_implementation
    expected = greedy_tokens(model, [1, 2, 3], 4)
    monkeypatch.setattr(probe, "UNSUPPORTED_OPTIONS", ("softcap",))
    with pytest.raises(
        KVError, match=r"^Gemma2Attention needs softcap, which paged attention does not support; .* own generate$"
    ):
        Engine(model)
    assert model.config._attn_implementation == before
    assert greedy_tokens(model, [1, 2, 3], 4) == expected


def test_calling_a_model_while_an_engine_has_it_is_an_error_with_advice() -> None:
    model = make_model("gpt2")
    engine = Engine(model, page_size=4, max_pages=4)
    with pytest.raises(KVError, match="call it through its Engine"), torch.inference_mode():
        model(torch.tensor([[1, 2]]))
    engine.close()
    model(torch.tensor([[1, 2]]))


def test_a_refused_engine_restores_the_model() -> None:
    model = make_model("gpt2")
    expected = greedy_tokens(model, [1, 2, 3], 4)
    with pytest.raises(KVError, match="page_size"):
        Engine(model, page_size=POSITIONS + 1)
    assert greedy_tokens(model, [1, 2, 3], 4) == expected


def test_a_failed_request_has_its_exception() -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with Engine(model, page_size=4, max_pages=8) as engine:
        (handle,) = engine.generate([[1, 2, 3]], greedy_params(4))
    assert isinstance(handle.exception, InvalidLogits)
    assert str(handle.exception) == handle.error


def test_min_new_tokens_delays_the_end_as_in_generate() -> None:
    model, prompt = make_model("llama"), random_prompts(1, seed=3)[0]
    end = greedy_tokens(model, prompt, 3)[2]
    ids = torch.tensor([prompt])
    settings = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "max_new_tokens": 12}
    expected = model.generate(ids, eos_token_id=end, min_new_tokens=7, **settings)[0, len(prompt) :].tolist()
    model.generation_config.eos_token_id = end
    with Engine(model, page_size=4, max_pages=40) as engine:
        params = SamplingParams(max_new_tokens=12, temperature=0, min_new_tokens=7)
        (handle,) = engine.generate([prompt], params)
        (early,) = engine.generate([prompt], SamplingParams(max_new_tokens=12, temperature=0))
        banned = SamplingParams(max_new_tokens=12, temperature=0, stop_token_ids=(end,), ignore_eos=True)
        (stopped,) = engine.generate([prompt], banned)
    assert handle.token_ids == expected
    assert end not in expected[:7]
    assert early.token_ids == stopped.token_ids
    assert early.token_ids[-1] == end
    assert len(early.token_ids) <= 3


@pytest.mark.parametrize("backend", ["auto", "paged", "transformers"])
def test_an_adapter_that_learns_a_prompt_is_refused_because_engines_do_not_add_it(backend: Any) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model: Any = get_peft_model(make_model("gpt2"), config)
    with pytest.raises(KVError, match=r"adapter 'default' learns a prompt, which engines do not add"):
        create_engine(model, backend=backend)
