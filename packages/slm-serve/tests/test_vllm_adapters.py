"""LoRA adapters that are loaded into a fake vLLM while it runs, and unloaded."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_kv import SamplingParams
from slm_serve import Job, Settings
from slm_serve.backends.protocol import BackendLoad
from slm_serve.backends.vllm.plan import engine_arguments, plan_serving
from slm_serve.errors import RequestError
from slm_testing.serve.fake_vllm import FakeSetup, fake_setup, make_job
from slm_testing.serve.small_models import BUTTERFLY, lora_config, save_adapter, save_base


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vllm")
    base = save_base(folder / "base")
    return {
        "base": base,
        "lora": save_adapter(folder / "lora", base, lora_config()),
        "large": save_adapter(folder / "large", base, lora_config(r=12)),
        "moth": save_adapter(folder / "moth", base, BUTTERFLY),
    }


@pytest.fixture
def setup(folders: dict[str, Path]) -> Iterator[FakeSetup]:
    with fake_setup(folders["base"]) as setup:
        yield setup


def run(setup: FakeSetup, work: Coroutine[Any, Any, None]) -> None:
    setup.loop.run_until_complete(asyncio.wait_for(work, 20))


def test_a_lora_that_is_loaded_later_answers_under_its_name(setup: FakeSetup, folders: dict[str, Path]) -> None:
    run(setup, setup.backend.load_adapter("x", folders["lora"]))
    engine = setup.engines[0]
    assert engine.loras == [("red", 1, "/red"), ("x#2", 2, str(folders["lora"]))]
    assert list(setup.backend.served) == ["red", "moth", "base", "x"]
    setup.collect([make_job("x"), make_job("base")])
    assert [lora for *_, lora in engine.requests[-2:]] == [engine.loras[1], None]


def test_a_replaced_lora_is_removed_when_its_last_request_has_ended(setup: FakeSetup, folders: dict[str, Path]) -> None:
    engine = setup.engines[0]
    run(setup, setup.backend.load_adapter("x", folders["lora"]))
    engine.blocks = True

    async def replace_while_running() -> None:
        answer = setup.start([make_job("x"), make_job("x")])
        await asyncio.sleep(0.05)
        await setup.backend.load_adapter("x", folders["lora"])
        assert [lora[0] for lora in engine.loras] == ["red", "x#2", "x#3"]
        answer.close()

    run(setup, replace_while_running())
    setup.wait_until(lambda: [lora[0] for lora in engine.loras] == ["red", "x#3"])
    run(setup, setup.backend.unload_adapter("x"))
    assert [lora[0] for lora in engine.loras] == ["red"]
    assert list(setup.backend.served) == ["red", "moth", "base"]
    with pytest.raises(RequestError, match="no model named 'x'"):
        setup.backend.check(make_job("x"))
    assert setup.backend.load() == BackendLoad(0, 0, 0, 0, 0)


def test_one_given_at_the_start_can_be_unloaded_and_a_merged_one_cannot(
    setup: FakeSetup, folders: dict[str, Path]
) -> None:
    run(setup, setup.backend.unload_adapter("red"))
    assert setup.engines[0].loras == []
    for work in (setup.backend.unload_adapter("moth"), setup.backend.load_adapter("moth", folders["lora"])):
        with pytest.raises(RequestError, match="merged, in an engine of its own") as raised:
            run(setup, work)
        assert raised.value.status == 409
    assert "moth" in setup.backend.served


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("moth", "adapter of the method BUTTERFLY.*; restart the server with it as --adapter, which merges it"),
        ("large", "its rank 12 is above 8"),
    ],
)
def test_what_vllm_cannot_load_itself_is_refused(
    setup: FakeSetup, folders: dict[str, Path], name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(setup, setup.backend.load_adapter("x", folders[name]))
    assert len(setup.engines[0].loras) == 1
    assert "x" not in setup.backend.served


def test_a_lora_that_vllm_fails_to_load_leaves_no_trace_and_the_room_is_limited(folders: dict[str, Path]) -> None:
    with fake_setup(folders["base"], failing_lora="x") as setup:
        for _ in range(3):
            with pytest.raises(ValueError, match="vLLM cannot load this adapter: The shapes differ; see"):
                run(setup, setup.backend.load_adapter("x", folders["lora"]))
        assert len(setup.engines[0].loras) == 1
        for name in ("a", "b"):
            run(setup, setup.backend.load_adapter(name, folders["lora"]))
        with pytest.raises(ValueError, match="2 adapters were loaded already"):
            run(setup, setup.backend.load_adapter("c", folders["lora"]))
        run(setup, setup.backend.unload_adapter("a"))
        run(setup, setup.backend.load_adapter("c", folders["lora"]))


def test_a_request_for_an_embedding_is_501(setup: FakeSetup) -> None:
    with pytest.raises(RequestError, match="embeddings are not possible with vLLM") as raised:
        setup.backend.check(Job((5,), SamplingParams(), "base", embeds=True))
    assert raised.value.status == 501


def test_room_for_later_adapters_is_planned_only_with_a_root_and_a_base_that_can_have_any(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    gpt2 = save_base(tmp_path / "gpt2", "gpt2")
    for base, root, expected in [(folders["base"], "/srv", 9), (folders["base"], None, None), (gpt2, "/srv", None)]:
        settings = Settings(model_path=str(base), adapter_root=root)
        plan = plan_serving(settings, "cpu")
        arguments = engine_arguments(plan, plan.engines[0], "cpu")
        assert arguments.get("max_loras") == expected
        assert arguments.get("max_lora_rank") == (64 if expected else None)
