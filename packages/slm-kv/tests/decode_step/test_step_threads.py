"""Another number of threads while a compiled step is loaded."""

from __future__ import annotations

import threading

import pytest
import torch

from slm_kv import Engine, SamplingParams
from slm_kv.compiled import team
from slm_kv.decode_step.step import DecodeStep
from slm_testing.zoo.models import build

pytestmark = pytest.mark.usefixtures("torch_threads")

GREEDY = SamplingParams(max_new_tokens=8, ignore_eos=True, temperature=0)


def text(engine: Engine) -> list[int]:
    (handle,) = engine.generate([[5, 6, 7]], GREEDY)
    assert handle.error is None
    return list(handle.token_ids)


@pytest.mark.parametrize("loaded_with", [1, 4])
def test_texts_stay_the_same_when_the_number_of_threads_changes(loaded_with: int) -> None:
    torch.set_num_threads(loaded_with)
    with Engine(build("llama"), max_pages=16) as engine:
        assert isinstance(engine._runner.step, DecodeStep)
        before = text(engine)
        for threads in (2, 1, 7, 3):
            torch.set_num_threads(threads)
            assert text(engine) == before


def test_a_step_uses_at_most_the_threads_that_it_has_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with Engine(build("llama"), max_pages=16) as engine:
        torch.set_num_threads(7)
        text(engine)
        assert team._process.team is not None
        assert team._process.team.threads == 2


def test_threads_may_be_set_by_another_thread_than_the_engines() -> None:
    torch.set_num_threads(2)
    with Engine(build("llama"), max_pages=16) as engine:
        before = text(engine)
        setter = threading.Thread(target=torch.set_num_threads, args=(3,))
        setter.start()
        setter.join()
        assert text(engine) == before
