"""``generate`` with a PagedCache gives what it gives with transformers' default cache."""

from typing import Any

import pytest
import torch

from slm_kv import KVError, PagedCache, PoolFull
from slm_testing.kv.other_models import make_other_model
from slm_testing.kv.tiny_models import MODEL_FACTORIES, make_model, random_prompts


def batch(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of different lengths, padded on the left, and their mask."""
    prompts = [prompt[:10] or [1] for prompt in random_prompts(rows, seed=6)]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


@pytest.mark.parametrize("page_size", [1, 5, 16])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("name", MODEL_FACTORIES)
def test_generate_gives_the_same_tokens(name: str, settings: dict[str, int], page_size: int) -> None:
    model, (ids, mask) = make_model(name), batch(3)
    settings_of_generate = {
        "attention_mask": mask,
        "max_new_tokens": 12,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    cache = PagedCache(page_size, 12 * 24 // page_size + 12)
    expected = model.generate(ids, **settings_of_generate, **settings)
    assert torch.equal(model.generate(ids, past_key_values=cache, **settings_of_generate, **settings), expected)
    cache.pool.check_integrity()
    cache.reset()
    assert cache.pool.used_pages == 0
    assert torch.equal(model.generate(ids, past_key_values=cache, **settings_of_generate, **settings), expected)


def test_a_conversation_continues_from_the_pages_of_its_first_turn() -> None:
    model, cache = make_model("llama"), PagedCache(4, 20)
    settings_of_generate = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    first = model.generate(torch.tensor([[5, 6, 7]]), past_key_values=cache, max_new_tokens=5, **settings_of_generate)
    longer = torch.cat([first, torch.tensor([[9, 10]])], dim=1)
    assert cache.get_seq_length() == 7
    result = model.generate(longer, past_key_values=cache, max_new_tokens=5, **settings_of_generate)
    assert torch.equal(result, model.generate(longer, max_new_tokens=5, **settings_of_generate))


def test_cropping_removes_the_last_tokens_and_releases_their_pages() -> None:
    model, cache = make_model("gpt2"), PagedCache(2, 20)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
    with torch.inference_mode():
        model(ids, past_key_values=cache)
        cache.crop(-3)
        assert (cache.get_seq_length(), cache.pool.used_pages) == (4, 2)
        result = model(ids[:, 4:], past_key_values=cache).logits
        expected = model(ids, use_cache=False).logits[:, 4:]
    assert torch.allclose(result, expected, atol=1e-5)


def test_beams_store_their_common_pages_once() -> None:
    model, cache = make_model("gpt2"), PagedCache(4, 40)
    model.generate(
        torch.tensor([[5] * 24]),
        past_key_values=cache,
        num_beams=4,
        max_new_tokens=3,
        pad_token_id=0,
        eos_token_id=None,
    )
    assert cache.pool.used_pages < 4 * cache.pool.pages_for(26)


def test_too_few_pages_are_an_error_and_the_pool_does_not_grow() -> None:
    model, cache = make_model("gpt2"), PagedCache(4, 4)
    with pytest.raises(PoolFull, match="pages needed: 1, pages free: 0 of max_pages=4"):
        model.generate(
            torch.tensor([[5] * 10]), past_key_values=cache, max_new_tokens=20, pad_token_id=0, eos_token_id=None
        )
    with pytest.raises(KVError, match="max_pages=4 is less than one page for each of 5 rows"):
        model(torch.ones(5, 1, dtype=torch.long), past_key_values=PagedCache(4, 4))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lfm2", "the model has the state of a convolution or recurrent layer; use transformers' own cache"),
        ("falcon_h1", "the model has the state of a convolution or recurrent layer; use transformers' own cache"),
        ("deepseek_v3", "layer 0 has keys of 8 and values of 4 numbers; use transformers' own cache"),
    ],
)
def test_models_whose_state_pages_do_not_hold_are_refused(name: str, message: str) -> None:
    with pytest.raises(KVError, match=message):
        make_other_model(name).generate(torch.tensor([[5, 6, 7]]), past_key_values=PagedCache(4, 16), max_new_tokens=2)


@pytest.mark.parametrize("name", ["gemma3_multimodal", "mistral"])
def test_texts_longer_than_a_sliding_window_are_the_same(name: str) -> None:
    model: Any = make_model(name) if name == "mistral" else make_other_model(name)
    settings = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "max_new_tokens": 10}
    ids = torch.tensor([list(range(5, 45))])
    expected = model.generate(ids, **settings)
    assert torch.equal(model.generate(ids, past_key_values=PagedCache(4, 16), **settings), expected)
