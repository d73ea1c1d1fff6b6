"""scripts/gpu_check: its parts on a CPU, parts that fail, hang or die, and the page about the results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_checks.command import PAGE, main
from gpu_checks.page import NOT_RUN, render
from gpu_checks.parts.gpu_tests import by_module, read_outcomes
from gpu_checks.processes import time_limits, visible_gpu
from gpu_checks.registry import PARTS, Part
from gpu_checks.results import Claim, PartResult, ResultError, Table, read_result, read_results
from gpu_checks.worker import run_part
from slm_testing.workspace.environments import create_environment_of
from slm_testing.workspace.readme_blocks import ROOT

RESULTS = ROOT / "docs" / "gpu-results"  # committed after a run on a GPU
FAST_PARTS = ("environment", "kernels")  # the slow test runs the others too
LISTED_PACKAGES = (  # of a machine with a GPU, without a network
    "torch", "triton", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "hypothesis", "pytest",
    "rich", "matplotlib", "pyarrow", "xxhash", "tensorboard",
)  # fmt: skip
NOT_THERE = ("pydantic", "pydantic-core")  # requirements of a newer huggingface-hub
ABSENT = ("datasets", "dill", "bitsandbytes", "fastapi", "uvicorn", "vllm", "numba", "shtab", "pydantic")

MADE_PARTS = """
import os, signal, subprocess, sys, time

from gpu_checks.registry import Part


def passing(recorder):
    recorder.claim("one", True, "as it should be")
    recorder.skip("two", "not here")
    recorder.table("Figures", ["name", "number"], [["a", 1234.5]])


def failing(recorder):
    recorder.claim("one", False, "it is not")
    recorder.claim("two", True, "fine")


def raising(recorder):
    recorder.claim("one", True, "before it")
    raise RuntimeError("it broke")


def hanging(recorder):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (recorder.folder.parent / "child.pid").write_text(str(child.pid))
    time.sleep(600)


def dying(recorder):
    recorder.claim("one", True, "before it")
    os.kill(os.getpid(), signal.SIGKILL)


def forgetful(recorder):
    recorder.claim("one", True, "and nothing else")
"""
CLAIMS = {"one": "The first claim", "two": "The second claim"}
MADE_SECONDS = {"passing": 300, "failing": 300, "raising": 300, "hanging": 4, "dying": 300, "forgetful": 300}


@dataclass(frozen=True)
class Made:
    """The run of made parts."""

    out: Path
    code: int
    results: dict[str, PartResult]


def write_parts(folder: Path) -> None:
    """Write the module ``made_parts``, whose PARTS are the functions above."""
    modules = "".join(
        f'\nsys.modules["made_{name}"] = type("Module", (), {{"run": staticmethod({name})}})' for name in MADE_SECONDS
    )
    parts = ",".join(
        f'Part("{name}", "{name}", {seconds}, {CLAIMS}, module="made_{name}")' for name, seconds in MADE_SECONDS.items()
    )
    (folder / "made_parts.py").write_text(f"{MADE_PARTS}{modules}\nPARTS = ({parts},)\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of parts that pass, fail, raise, hang, die and forget a claim."""
    folder = tmp_path_factory.mktemp("made")
    write_parts(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("TMPDIR", str(folder))
        words = ["--out", str(folder / "out"), "--device", "cpu", "--small", "--commit", "abc", "--minutes", "5"]
        code = main([*words, "--jobs", str(len(MADE_SECONDS))], registry="made_parts")
    return Made(folder, code, read_results(folder / "out", [*MADE_SECONDS]))


def test_a_failed_part_makes_the_exit_code_1_and_every_part_leaves_a_result(made: Made) -> None:
    assert made.code == 1
    assert {name: result.status for name, result in made.results.items()} == dict.fromkeys(MADE_SECONDS, "failed") | {
        "passing": "passed"
    }
    assert made.results["failing"].reason == "one: it is not"
    assert made.results["raising"].reason == "RuntimeError: it broke"
    assert "without a verdict on two" in made.results["forgetful"].reason
    assert {result.provenance["commit"] for result in made.results.values()} == {"abc"}


def test_a_hanging_part_is_ended_at_its_limit_with_its_children(made: Made) -> None:
    assert "ended at its limit of 4 s" in made.results["hanging"].reason
    pid = made.out / "child.pid"
    if pid.exists():  # unless it was ended before it started one
        assert not _is_running(int(pid.read_text()))


def test_sigterm_ends_the_parts_that_run(tmp_path: Path) -> None:
    write_parts(tmp_path)
    words = ["--out", str(tmp_path / "out"), "--device", "cpu", "--minutes", "9", "--parts", "hanging", "--commit", "a"]
    program = f"import sys; from gpu_checks.command import main; sys.exit(main({words}, registry='made_parts'))"
    path = os.pathsep.join([str(tmp_path), str(ROOT / "scripts")])
    environment = os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    child = tmp_path / "child.pid"
    while not (child.exists() and child.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not _is_running(int(child.read_text()))


def test_a_killed_part_is_reported_with_what_it_had_found(made: Made) -> None:
    assert "was ended by SIGKILL" in made.results["dying"].reason
    assert made.results["dying"].claims == {"one": Claim("passed", "before it")}


def test_the_page_has_a_verdict_on_every_claim(made: Made) -> None:
    parts = [Part(name, name, 1, CLAIMS) for name in (*MADE_SECONDS, "missing")]
    page = render(parts, made.results)
    assert "| passing | The first claim | passed | as it should be |" in page
    assert "| | The second claim | skipped | not here |" in page
    assert "| failing | The first claim | **failed** | it is not |" in page
    assert "| | The second claim | **failed** | not reached: RuntimeError: it broke |" in page
    assert f"| missing | The first claim | {NOT_RUN} | |" in page
    assert "| a | 1,234 |" in page
    assert "small sizes" in page
    assert "14 claims: " in page


def test_the_committed_page_is_rendered_from_the_committed_results() -> None:
    results = read_results(RESULTS, [part.name for part in PARTS]) if RESULTS.exists() else {}
    assert PAGE.read_text() == render(PARTS, results), "run scripts/gpu_check --render none, or docs/gpu-results"


def test_without_results_every_claim_is_not_yet_run() -> None:
    page = render(PARTS, {})
    assert page.count(f"| {NOT_RUN} | |") == sum(len(part.claims) for part in PARTS)
    assert "**failed**" not in page


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--parts", "kernels,colonels"], "there is no part colonels; choose from environment, gpu_tests,"),
        (["--parts", ","], "there is no part in it; choose from environment"),
        (["--device", "tpu"], "--device tpu is not one of auto, cpu, cuda and cuda:N"),
        (["--minutes", "0"], "--minutes 0 leaves no time; give a positive number"),
        (["--render", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_a_wrong_flag_is_one_sentence(words: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu_check: ")
    assert sentence in line


def test_render_writes_the_page_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = PartResult("environment", "passed", seconds=3.0, claims={"product": Claim("passed", "2e-07")})
    result.tables.append(Table("Rates", ["", "measured"], [["a|b", "<i>"]]))
    result.save(tmp_path / "environment.json")
    assert main(["--render", str(tmp_path), "--page", str(tmp_path / "gpu.md")]) == 0
    page = (tmp_path / "gpu.md").read_text()
    assert "| passed | 2e-07 |" in page
    assert r"| a\|b | &lt;i> |" in page
    assert page.count(NOT_RUN) == 1 + sum(len(part.claims) for part in PARTS[1:])


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 9}', '{"format": 1, "part": "a", "claims": {}, "tables": 3}']
)
def test_a_file_that_is_no_result_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text(content)
    with pytest.raises(ResultError, match=r"environment\.json"):
        read_result(tmp_path / "environment.json")


@given(
    st.lists(st.tuples(st.floats(1, 100), st.booleans()), min_size=1, max_size=12), st.integers(1, 5), st.floats(1, 900)
)
def test_parts_that_all_reach_their_limits_take_the_whole_time(
    shapes: list[tuple[float, bool]], jobs: int, seconds: float
) -> None:
    parts = [Part(str(index), "", share, alone=alone) for index, (share, alone) in enumerate(shapes)]
    limits = time_limits(parts, jobs, seconds)
    ends = [0.0] * jobs
    for part in parts:
        if not part.alone:  # it starts where one has ended
            ends[ends.index(min(ends))] += limits[part.name]
    total = max(ends) + sum(limits[part.name] for part in parts if part.alone)
    assert total == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("device", "variables", "expected"),
    [
        ("auto", {}, "0"),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "3,5"}, "3"),
        ("cuda:1", {}, "1"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "3,5"}, "5"),
        ("cpu", {"CUDA_VISIBLE_DEVICES": "3"}, ""),
    ],
)
def test_parts_see_one_gpu(device: str, variables: dict[str, str], expected: str) -> None:
    assert visible_gpu(device, variables) == expected


def test_the_parts_fit_in_eight_minutes_on_a_machine_with_eight_cores() -> None:
    limits = time_limits(PARTS, 4, 8 * 60)
    assert all(limits[part.name] >= 0.95 * part.seconds for part in PARTS), limits


@pytest.mark.parametrize("name", FAST_PARTS)
def test_a_part_runs_on_a_cpu(name: str, tmp_path: Path) -> None:
    part = next(part for part in PARTS if part.name == name)
    result = run_part(part, "cpu", PartResult(name, small=True), tmp_path / "result.json", 600)
    assert result.status in ("passed", "skipped"), result.reason
    assert result.claims.keys() == part.claims.keys()
    assert result.tables
    assert read_result(tmp_path / "result.json") == result


def test_the_outcomes_of_tests_are_read_from_the_report_of_pytest(tmp_path: Path) -> None:
    cases = {"good": "", "bad": "<failure>no</failure>", "left": "<skipped/>", "broken": "<error>no</error>"}
    written = "".join(
        f'<testcase classname="a.test_made" name="{name}">{each}</testcase>' for name, each in cases.items()
    )
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{written}</testsuite></testsuites>")
    outcomes = read_outcomes(tmp_path / "tests.xml")
    assert [*outcomes.values()] == ["passed", "failed", "skipped", "failed"]
    assert by_module(outcomes) == [["test_made", 1, 2, 1]]


def test_parts_that_need_something_missing_are_skipped_with_the_reason(tmp_path: Path) -> None:
    cases = [(Part("a", "", 1, needs_cuda=True), "needs a CUDA device"), (Part("b", "", 1, packages=("nothing",)), "")]
    for part, reason in cases:
        result = run_part(part, "cpu", PartResult(part.name), tmp_path / "result.json", 60)
        assert (result.status, result.reason) == ("skipped", reason or "nothing is not installed")


@pytest.mark.slow
def test_all_parts_run_on_a_cpu_with_the_packages_of_a_gpu_machine(tmp_path: Path) -> None:
    python = create_environment_of(LISTED_PACKAGES, tmp_path / "environment", NOT_THERE) / "python"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    check = f"from importlib.util import find_spec; assert not any(map(find_spec, {ABSENT}))"
    subprocess.run([python, "-c", check], env=environment, check=True)
    words = ["--small", "--device", "cpu", "--minutes", "60", "--jobs", "1", "--out", str(tmp_path / "out")]
    command = [str(python), str(ROOT / "scripts" / "gpu_check"), *words]
    completed = subprocess.run(command, env=environment, check=False)
    results = {part.name: json.loads((tmp_path / "out" / f"{part.name}.json").read_text()) for part in PARTS}
    assert completed.returncode == 0, {name: result["reason"] for name, result in results.items()}
    assert {name for name, result in results.items() if result["status"] == "skipped"} == {
        "gpu_tests", "qlora", "decode_speed"
    }  # fmt: skip
    assert results["qlora"]["reason"] == "bitsandbytes is not installed"


@pytest.mark.slow
def test_qlora_runs_on_a_cpu(tmp_path: Path) -> None:
    part = next(part for part in PARTS if part.name == "qlora")
    result = run_part(part, "cpu", PartResult("qlora", small=True), tmp_path / "result.json", 600)
    assert result.status == "passed", result.reason


def _is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "zombie" not in status.read_text()
