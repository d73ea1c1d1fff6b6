"""Several models that share a base and have adapters of different methods; and requests without a cache."""

import copy
from typing import Any

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model

from slm_kv import Engine, KVError, pack
from slm_kv.engine.scheduler import Work
from slm_kv.linear.packed_linear import PackedLayer
from slm_testing.kv.lora_model import greedy_tokens_alone, make_lora_model
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, random_prompts, run_to_end


def models_sharing_a_base() -> list[PeftModel]:
    """Two models with the same base tensors: LoRA adapters ``red`` and ``blue`` on one, IA3 ``green`` on the other."""
    model = make_lora_model()
    base = model.get_base_model()
    plain = make_model("llama")
    shared = dict(plain.named_parameters())
    for key, weight in base.named_parameters():
        name = key.replace(".base_layer", "")
        if name in shared:
            parent, _, attribute = name.rpartition(".")
            setattr(plain.get_submodule(parent), attribute, weight)
    other = get_peft_model(
        plain, IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]), "green"
    )
    torch.manual_seed(5)
    with torch.no_grad():
        for key, weight in other.named_parameters():
            if "ia3_l" in key:
                weight.normal_()
    return [model, other.eval()]


def test_adapters_of_two_methods_and_the_base_get_their_own_texts() -> None:
    red, green = models_sharing_a_base()
    requests = [
        (prompt, name)
        for prompt, name in zip(random_prompts(8, seed=9), ["red", "green", "blue", "base"] * 2, strict=True)
    ]
    plain = make_model("llama")
    expected = [
        greedy_tokens({"green": green, "base": plain}[name], prompt, 8)
        if name in ("green", "base")
        else greedy_tokens_alone(red, [(prompt, name)], 8)[0]
        for prompt, name in requests
    ]
    with Engine([red, green], page_size=3, max_pages=80, max_sequences=8, max_step_tokens=9) as engine:
        handles = [
            engine.submit(prompt, greedy_params(8), adapter="__base__" if name == "base" else name)
            for prompt, name in requests
        ]
        run_to_end(engine)
        assert [handle.error for handle in handles] == [None] * 8
    assert [handle.token_ids for handle in handles] == expected
    assert greedy_tokens(green, requests[1][0], 8) == expected[1]  # restored


def test_a_shared_weight_is_packed_once_and_shared_again_after_unpacking() -> None:
    models = torch.nn.ModuleList(models_sharing_a_base())
    before = {key: weight.clone() for key, weight in models.state_dict().items()}
    packed = pack(models)
    layers = {id(module) for module in models.modules() if isinstance(module, PackedLayer)}
    alone = pack(copy.deepcopy(make_model("llama"))).layers
    assert len(layers) == len(alone)  # none is packed twice
    packed.unpack()
    after = models.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    heads = [model.get_output_embeddings().weight for model in models]
    assert heads[0].data_ptr() == heads[1].data_ptr()


def test_duplicate_adapter_names_and_models_of_different_shapes_are_refused() -> None:
    red, green = models_sharing_a_base()
    with pytest.raises(KVError, match="an adapter of the same name"):
        Engine([red, red])
    with pytest.raises(KVError, match="cannot share pages"):
        Engine([make_model("gpt2"), green])
    assert make_model("gpt2").config._attn_implementation == red.config._attn_implementation


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_without_a_cache_each_token_computes_the_whole_text_and_the_tokens_are_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = make_model(name), random_prompts(1, seed=3)[0]
    expected = greedy_tokens(model, prompt, 8)
    with Engine(model, page_size=3, max_pages=80) as engine:
        rows: list[int] = []
        run = engine._runner.run

        def count_rows(work: tuple[Work, ...]) -> Any:
            rows.append(sum(item.count for item in work))
            return run(work)

        monkeypatch.setattr(engine._runner, "run", count_rows)
        plain = engine.submit(prompt, greedy_params(8), use_cache=False)
        run_to_end(engine)
        assert plain.token_ids == expected
        assert rows == [len(prompt) + done for done in range(8)]
        assert engine.pool.used_pages == 0
        again = engine.submit(prompt, greedy_params(8))
        run_to_end(engine)
        assert again.reused_tokens == 0  # the request without a cache left no known prefix
        assert again.token_ids == expected


def test_without_a_cache_the_tokens_are_the_same_in_a_batch_and_with_few_pages() -> None:
    model, texts = make_model("llama"), random_prompts(6, seed=4)
    expected = [greedy_tokens(model, prompt, 8) for prompt in texts]
    with Engine(model, page_size=2, max_pages=20, max_sequences=6, max_step_tokens=7) as engine:
        handles = [
            engine.submit(prompt, greedy_params(8), use_cache=index % 2 == 0) for index, prompt in enumerate(texts)
        ]
        run_to_end(engine)
        assert [handle.token_ids for handle in handles] == expected
        assert engine.load().preemptions > 0
        assert engine.pool.used_pages == 0


def test_without_a_cache_a_window_continues_from_the_last_half() -> None:
    with Engine(make_model("llama"), page_size=2, max_pages=8, on_full="window") as engine:
        handle = engine.submit([5, 6, 7], greedy_params(40), use_cache=False)
        run_to_end(engine)
        assert (len(handle.token_ids), handle.error) == (40, None)


def test_check_and_submit_refuse_with_the_same_message() -> None:
    with Engine(make_model("llama"), page_size=4, max_pages=4) as engine:
        for prompt, adapter in [([], None), ([1] * 70, None), ([97], None), ([1], "green")]:
            with pytest.raises(KVError) as checked:
                engine.check(prompt, greedy_params(4), adapter=adapter)
            with pytest.raises(KVError) as submitted:
                engine.submit(prompt, greedy_params(4), adapter=adapter)
            assert str(checked.value) == str(submitted.value)
        engine.check([1, 2], greedy_params(4))
        assert not engine.busy
