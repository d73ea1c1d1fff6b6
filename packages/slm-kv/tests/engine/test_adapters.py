"""Several adapters served from one pool: each request gets the text of its own weights."""

import pytest
import torch

from slm_kv import Engine, KVError
from slm_kv.engine.adapters import AdaptedModel, Adapters
from slm_testing.kv.lora_model import greedy_tokens_alone, make_lora_model
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, random_prompts, run_to_end


@pytest.mark.parametrize("mixes", [True, False])
def test_requests_with_different_adapters_get_their_own_texts(mixes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_lora_model()
    requests = [
        (prompt, name) for prompt, name in zip(random_prompts(6, seed=9), ["red", "blue", None] * 2, strict=True)
    ]
    expected = greedy_tokens_alone(model, requests, 8)
    assert (
        len(
            {tuple(text) for text in greedy_tokens_alone(model, [(requests[0][0], "red"), (requests[0][0], "blue")], 8)}
        )
        == 2
    )
    with Engine(model, page_size=3, max_pages=80, max_sequences=6, max_step_tokens=9) as engine:
        assert engine.adapters._models[0].supports_mixed_batches
        monkeypatch.setattr(engine.adapters._models[0], "supports_mixed_batches", mixes)
        handles = [engine.submit(prompt, greedy_params(8), adapter=name) for prompt, name in requests]
        run_to_end(engine)
        assert [handle.error for handle in handles] == [None] * 6
    assert [handle.token_ids for handle in handles] == expected


def test_the_base_is_served_beside_its_adapters() -> None:
    plain, model = make_model("llama"), make_lora_model()
    prompt = random_prompts(1, seed=3)[0]
    with Engine(model, page_size=3, max_pages=80) as engine:
        base, red = engine.submit(prompt, greedy_params(8), adapter="__base__"), engine.submit(prompt, greedy_params(8))
        run_to_end(engine)
    assert base.token_ids == greedy_tokens(plain, prompt, 8)
    assert red.token_ids == greedy_tokens_alone(model, [(prompt, "red")], 8)[0]


def test_a_prefix_known_with_one_adapter_is_not_reused_with_another() -> None:
    model = make_lora_model()
    prompt = list(range(1, 20))
    with Engine(model, page_size=4, max_pages=80) as engine:
        for adapter, reused in [("red", 0), ("red", 16), ("blue", 0), ("__base__", 0), ("blue", 16)]:
            handle = engine.submit(prompt, greedy_params(1), adapter=adapter)
            run_to_end(engine)
            assert handle.reused_tokens == reused


def test_an_unknown_adapter_is_refused_with_the_known_names() -> None:
    with Engine(make_lora_model()) as engine, pytest.raises(KVError, match="'green'; known adapters: red, blue"):
        engine.submit([1], greedy_params(1), adapter="green")


def test_one_changed_weight_changes_the_digest_of_that_adapter() -> None:
    model = make_lora_model()
    before = AdaptedModel(model).digests(b"base")
    with torch.no_grad():
        next(weight for key, weight in model.named_parameters() if "lora_B.red" in key)[0, 0] += 1e-6
    after = AdaptedModel(model).digests(b"base")
    assert after["red"] != before["red"]
    assert after["blue"] == before["blue"]
    assert AdaptedModel(model).digests(b"another base")["blue"] != before["blue"]


def test_prefixes_of_different_weights_have_different_roots() -> None:
    adapters = Adapters([make_lora_model()])
    names = ("red", "blue", None)
    before = {adapters.prefix_root(name) for name in names}
    adapters.refresh()
    assert len(before | {adapters.prefix_root(name) for name in names}) == 6


def test_after_weights_changed_no_old_pages_are_used() -> None:
    model = make_lora_model()
    prompt = list(range(1, 20))
    with Engine(model, page_size=4, max_pages=80) as engine:
        engine.generate([prompt], greedy_params(1))
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B.red" in key:
                    weight.mul_(-1)
        engine.weights_changed()
        (handle,) = engine.generate([prompt], greedy_params(6))
        assert handle.reused_tokens == 0
    assert handle.token_ids == greedy_tokens_alone(model, [(prompt, "red")], 6)[0]


def test_a_request_that_fails_without_adapters_leaves_other_requests_their_adapters() -> None:
    model = make_lora_model()
    prompt, failing_token = random_prompts(1, seed=3)[0], 96

    def trip(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if (inputs[0] == failing_token).any():
            raise RuntimeError("a kernel failed")

    with Engine(model, page_size=3, max_pages=80) as engine:
        hook = model.get_input_embeddings().register_forward_pre_hook(trip)
        broken = engine.submit([failing_token, 1], greedy_params(8), adapter="__base__")
        fine = engine.submit(prompt, greedy_params(3), adapter="red")
        engine.step()
        hook.remove()
        run_to_end(engine)
    assert broken.finish_reason == "error"
    assert fine.token_ids == greedy_tokens_alone(model, [(prompt, "red")], 3)[0]
