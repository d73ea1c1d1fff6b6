"""A fake vLLM: engines that generate the tokens of a text, and a backend over them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoTokenizer

from slm_adapters import AdapterLoader, Tokenizers, find_base
from slm_data import sample_base
from slm_kv import SamplingParams
from slm_serve import Answer, Delta, Job, VLLMBackend
from slm_serve.backends.served_models import ServedModel
from slm_serve.backends.vllm.library import VLLMLibrary
from slm_serve.backends.vllm.plan import EnginePlan, ServingPlan
from slm_serve.backends.vllm.sizes import EngineSizes

VOCABULARY, CONTEXT_LENGTH, END = 2048, 64, 1
TOKENIZER = AutoTokenizer.from_pretrained(sample_base())
TEXT = TOKENIZER(" there was a little girl", add_special_tokens=False)["input_ids"]


class FakeEngineDeadError(Exception):
    """In place of vLLM's EngineDeadError."""


@dataclass
class FakeEngine:
    """An engine that generates the tokens of ``text``, one at a time, again and again."""

    arguments: dict[str, Any]
    text: list[int] = field(default_factory=lambda: list(TEXT))
    ending: str | Exception | None = None  # after the text, instead of repeating it
    errored: bool = False
    shut_down: bool = False
    loras: list[Any] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)  # ids of the requests that have ended
    blocks: bool = False
    hangs_after: int | None = None  # tokens
    failing_lora: str | None = None
    hanging: bool = False

    @property
    def vllm_config(self) -> Any:
        """The limits that were given, or those that this vLLM chooses."""
        arguments = {"max_model_len": 60, "max_num_seqs": 7} | self.arguments
        return SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=arguments["max_model_len"]),
            scheduler_config=SimpleNamespace(max_num_seqs=arguments["max_num_seqs"]),
        )

    async def add_lora(self, lora: Any) -> None:
        self.loras.append(lora)

    async def remove_lora(self, lora_id: int) -> None:
        self.loras = [lora for lora in self.loras if lora[1] != lora_id]

    async def generate(
        self, prompt: Any, sampling: Any, request_id: str, lora_request: Any = None
    ) -> AsyncIterator[Any]:
        self.requests.append((prompt, sampling, lora_request))
        if lora_request and lora_request[0].partition("#")[0] == self.failing_lora:
            raise RuntimeError("The shapes differ.")
        generated = 0
        try:
            while generated < sampling["max_tokens"]:
                if self.blocks and request_id != "warm-up":
                    await asyncio.sleep(3600)
                if generated == self.hangs_after:
                    self.hanging = True
                    await asyncio.sleep(3600)
                if generated >= len(self.text) and self.ending:
                    break
                token = self.text[generated % len(self.text)]
                generated += 1
                last = generated == sampling["max_tokens"] or token in sampling.get("stop_token_ids", ())
                yield output([token], "length" if last else None)
                await asyncio.sleep(0)
                if last:
                    return
            if isinstance(self.ending, Exception):
                raise self.ending
            yield output([], self.ending)
        finally:
            self.ended.append(request_id)

    def shutdown(self, timeout: float) -> None:
        self.shut_down = True


def output(tokens: list[int], reason: str | None = None) -> Any:
    completion = SimpleNamespace(token_ids=tokens, finish_reason=reason, logprobs=None)
    return SimpleNamespace(outputs=[completion], prompt_logprobs=None)


@dataclass
class FakeSetup:
    """A backend over fake engines, and the event loop to which it sends its results."""

    backend: VLLMBackend
    engines: list[FakeEngine]
    loop: asyncio.AbstractEventLoop

    def collect(self, jobs: list[Job], stop_after: int | None = None) -> list[list[Delta]]:
        async def collect_deltas() -> list[list[Delta]]:
            answer = Answer(len(jobs))
            deltas: list[list[Delta]] = [[] for _ in jobs]
            self.backend.submit(jobs, answer)
            try:
                async for index, delta in answer:
                    deltas[index].append(delta)
                    if stop_after and sum(map(len, deltas)) >= stop_after:
                        break
            finally:
                answer.close()
            return deltas

        return self.loop.run_until_complete(asyncio.wait_for(collect_deltas(), 20))

    def start(self, jobs: list[Job]) -> Answer:
        """Submit jobs and return their answer, which the caller must close."""
        answer = Answer(len(jobs))
        self.backend.submit(jobs, answer)
        return answer

    def wait_until(self, condition: Callable[[], bool]) -> None:
        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.01)

        self.loop.run_until_complete(asyncio.wait_for(poll(), 20))


SIZES = EngineSizes("float32", CONTEXT_LENGTH, 1000, 2, 256)


def serving_plan(base: Path | None = None, sizes: EngineSizes = SIZES) -> ServingPlan:
    """Return a plan for a base with a LoRA (red) and a merged adapter (moth).

    With the folder of a base, two more LoRAs can be loaded later.
    """
    free, location = (2, find_base(base)) if base else (0, find_base("sample"))
    engines = (EnginePlan("folder", "base", {"red": "/red"}, 8, free), EnginePlan("merged", "moth", {}))
    served = {name: ServedModel(name, "adapter", "base", "") for name in ("red", "moth")}
    served |= {"base": ServedModel("base", "base", None, "as they are")}
    loader = AdapterLoader(location, Tokenizers(TOKENIZER, TOKENIZER, {}), four_bit=False)
    tokenizers = dict.fromkeys(served, TOKENIZER)
    return ServingPlan(
        engines,
        served,
        {},
        TOKENIZER,
        tokenizers,
        VOCABULARY,
        frozenset([END]),
        sizes,
        "LlamaForCausalLM",
        loader,
    )


def fake_vllm(engines: list[FakeEngine], failing: int | None = None, failing_lora: str | None = None) -> VLLMLibrary:
    """Return a library that appends the engines it starts to ``engines``.

    The engine numbered ``failing`` does not start, and the LoRA named ``failing_lora`` cannot generate.
    """

    def start(arguments: dict[str, Any]) -> FakeEngine:
        if failing == len(engines):
            raise ValueError("Too little memory. Give more.")
        engines.append(FakeEngine(arguments, failing_lora=failing_lora))
        return engines[-1]

    return VLLMLibrary(
        version="0.32.0",
        device="cpu",
        engine=SimpleNamespace(from_engine_args=start),
        engine_args=dict,
        sampling_params=dict,
        delta_output="deltas",
        lora_request=lambda *args: args,
        tokens_input=lambda ids: ("tokens", ids),
        engine_dead_error=FakeEngineDeadError,
        structured_outputs_params=dict,
        structured_outputs_config=dict,
    )


@contextmanager
def fake_setup(base: Path | None = None, sizes: EngineSizes = SIZES, **options: Any) -> Iterator[FakeSetup]:
    """Run a backend over fake engines. The arguments are those of ``serving_plan`` and ``fake_vllm``."""
    loop = asyncio.new_event_loop()
    engines: list[FakeEngine] = []
    backend = VLLMBackend(serving_plan(base, sizes), fake_vllm(engines, **options), loop)
    yield FakeSetup(backend, engines, loop)
    backend.close()
    loop.close()


def make_job(model: str = "base", streams: bool = False, prompt: tuple[int, ...] = (5, 6), **params: Any) -> Job:
    """Return a job for four greedy tokens, with ``params`` changed."""
    return Job(prompt, SamplingParams(**{"temperature": 0, "max_new_tokens": 4, **params}), model, streams=streams)
