"""Long greedy texts of the compiled step: token for token those of the model, past page borders and windows."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING

from slm_kv import Engine, KVError, SamplingParams
from slm_testing.zoo.checks.reference import generated, random_ids, recomputed
from slm_testing.zoo.models import ZOO, build

pytestmark = pytest.mark.usefixtures("torch_threads")

NEW_TOKENS = 105
TIE = 1e-5
LENGTHS = (1, 2, 3, 7, 15, 16, 17, 18, 25, 31, 32, 33, 40)
# Of the zoo, those whose structure is recognised.
RECOGNISED = """arcee llama llama_llama3 llama_yarn cohere ernie4_5 gemma glm glm4 gpt_neox granite helium jais2
    nemotron olmo2 phi phi3 qwen2 qwen3 seed_oss smollm3 stablelm mistral ministral phi3_windowed qwen2_windowed
    qwen3_windowed starcoder2 olmo3 gemma2 vaultgemma gemma3 gemma3_multimodal gpt2 gpt2_scaled gpt_bigcode opt"""


def texts(engine: Engine, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    params = SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True, temperature=0)
    return [list(handle.token_ids) for handle in engine.generate(prompts, params)]


def assert_texts_of_the_model(name: str, engine: Engine, batches: tuple[int, ...]) -> None:
    """Each token must be the likeliest after all tokens before it, or equal it but for the rounding of logits."""
    threads = torch.get_num_threads()
    for batch in batches:
        engine.pool.clear_cache()
        prompts = [random_ids(count, seed=100 * batch + i) for i, count in enumerate((LENGTHS * 2)[-batch:])]
        torch.set_num_threads(threads)
        completions = texts(engine, prompts)
        torch.set_num_threads(1)  # on two, torch's layers of this size spend most of their time waiting
        for prompt, text in zip(prompts, completions, strict=True):
            logits = recomputed(name, prompt, text).logits
            chosen = logits.gather(1, torch.tensor(text)[:, None])[:, 0]
            assert (logits.amax(1) - chosen <= TIE * logits.std(1)).all()


# gemma3 and mistral have windows of 16 tokens, gpt_neox mixes queries, keys and values, opt scales queries itself.
@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral", "gpt_neox", "opt"])
@pytest.mark.parametrize("threads", [1, 2])
def test_long_texts_are_those_of_the_model(name: str, threads: int) -> None:
    torch.set_num_threads(threads)
    with Engine(build(name), max_pages=256) as engine:
        assert engine._runner.step is not None
        assert_texts_of_the_model(name, engine, (5,) if threads == 2 else (1,))


@pytest.mark.slow("many architectures")
@pytest.mark.parametrize("name", ZOO)
def test_every_architecture_with_a_compiled_step_gives_the_texts_of_the_model(name: str) -> None:
    if ZOO[name].model_type not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {ZOO[name].model_type}")
    try:
        engine = Engine(build(name), max_pages=256)
    except KVError:
        assert name not in RECOGNISED.split()
        return
    with engine:
        assert (engine._runner.step is not None) == (name in RECOGNISED.split()), engine.summary
        if engine._runner.step is not None:
            assert_texts_of_the_model(name, engine, (1, 5, 20))
            prompt = random_ids(15)
            assert texts(engine, [prompt]) == [list(generated(name, prompt, NEW_TOKENS).token_ids)]
