"""``slm-bench all``: every benchmark runs, whether or not the one before it failed."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from slm_bench.all import run_all
from slm_bench.all.arguments import COMMANDS, WITH_FULL
from slm_bench.cli import main
from slm_testing.bench.command_runs import WriteResult


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, write_result: WriteResult) -> list[list[str]]:
    """Command lines that would have been started; each writes a result file, except train, which fails."""
    commands: list[list[str]] = []

    def wait(command: Sequence[str]) -> int:
        commands.append(list(command[command.index("slm_bench.cli") + 1 :]))
        if "train" in command:
            return 3
        Path(command[command.index("--json") + 1]).write_text(
            write_result("made.json", benchmark=command[3]).read_text()
        )
        return 0

    monkeypatch.setattr(run_all, "_wait", wait)
    return commands


def test_a_benchmark_that_fails_does_not_stop_the_others_and_the_exit_code_is_1(
    tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "train.json").write_text("of an earlier run")
    assert main(["all", "--output_dir", str(folder)]) == 1
    assert [words[0] for words in started] == ["kv", "kv", "adapters", "train", "serve"]
    assert started[1][:2] == ["kv", "--engine"]
    assert not (folder / "train.json").exists()
    page = (folder / "report.html").read_text()
    assert 'id="adapters"' in page
    assert 'id="train"' not in page
    lines = capsys.readouterr().out.splitlines()
    codes = {words[1]: words[-2] for words in map(str.split, lines) if words[:1] == ["│"] and "min" in words}
    assert codes == {"kv": "0", "kv_engine": "0", "adapters": "0", "train": "3", "serve": "0"}
    assert sum("1 of 1 kept" in line for line in lines if " min " in line) == 4


def test_only_requested_benchmarks_run_and_full_goes_to_those_that_have_it(
    tmp_path: Path, started: list[list[str]]
) -> None:
    assert main(["all", "--output_dir", str(tmp_path), "--only", "serve,kv", "--full"]) == 0
    assert [(words[0], "--full" in words) for words in started] == [("kv", False), ("serve", True)]


def test_the_exit_code_is_that_of_the_process() -> None:
    assert run_all._wait([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_each_command_line_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked by the parser of the program itself."""
    seen: list[str] = []
    monkeypatch.setattr("slm_bench.cli._run", lambda arguments: seen.append(arguments.command) or 0)
    for words in COMMANDS.values():
        assert main([*words, "--json", "a.json", "--plot", "a"]) == 0
    for name in WITH_FULL:
        assert main([name, "--full"]) == 0
    assert seen == ["kv", "kv", "adapters", "train", "serve", *WITH_FULL]


@pytest.mark.slow
def test_all_benchmarks_run_for_real(tmp_path: Path) -> None:
    assert main(["all", "--output_dir", str(tmp_path)]) == 0
    for name in COMMANDS:
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert all(guarantee["held"] for guarantee in content["promises"])
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "<h2>kv --engine</h2>" in (tmp_path / "report.html").read_text()
