"""Progress of training and evaluation: rates, remaining times, bars on a terminal and lines elsewhere."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers.trainer_callback import PrinterCallback, ProgressCallback

import slm_train.reports.progress_bar as progress_bar
from slm_testing.train.budget_runs import dynamic, trainer_of
from slm_testing.train.tiny_runs import Tiny
from slm_train.cli import main
from slm_train.reports.durations import clock_time, rough_time
from slm_train.reports.progress_bar import ProgressBar, progress_display
from slm_train.reports.progress_rate import ProgressRate


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


def test_the_remaining_time_follows_from_the_rate_without_pauses(clock: Clock) -> None:
    rate = ProgressRate(total=20, completed=4)  # a resumed run
    assert (rate.left, rate.speed("steps")) == (None, "")
    for step in range(5, 13):
        clock.now += 50.0  # an evaluation
        rate.skip()
        clock.now += 3.0
        rate.advance(step)
    assert rate.left == pytest.approx(8 * 3.0)
    assert rate.seconds == pytest.approx(8 * 3.0)
    assert rate.speed("steps") == "3.0 s/step"


def test_the_rate_is_that_of_recent_steps(clock: Clock) -> None:
    rate = ProgressRate(total=200, completed=0)
    for step in range(1, 141):
        clock.now += 10.0 if step <= 40 else 0.5
        rate.advance(step)
    assert rate.left == pytest.approx(60 * 0.5, rel=0.01)
    assert rate.speed("tokens") == "2.0 tokens/s"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (75, "1:15"), (3599.6, "1:00:00"), (36_061, "10:01:01")])
def test_clock_times(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "under 1 s"), (8.4, "8 s"), (99, "99 s"), (140, "2 min"), (3590, "1 h"), (4800, "1 h 20 min")],
)  # fmt: skip
def test_rough_times(seconds: float, text: str) -> None:
    assert rough_time(seconds) == text


def frames_of(tiny: Tiny, folder: Path) -> str:
    """What a run of 8 steps, with an evaluation before and after 4 and 8 steps, writes to a terminal."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80, soft_wrap=True)
    trainer = trainer_of(tiny, folder, "--eval_interval", "4", "--log_interval", "1", steps="8")
    for library_callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(library_callback)
    with progress_display(console) as display:
        trainer.add_callback(ProgressBar(display, int(trainer.plan.tokens.sum())))
        trainer.evaluate()
        trainer.train()
        assert not display.live.is_started
    return output.getvalue()


def test_on_a_terminal_training_and_evaluation_have_bars_that_vanish(tiny: Tiny, tmp_path: Path) -> None:
    raw = frames_of(tiny, tmp_path / "run")
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", raw)]
    assert max(map(len, lines)) <= 80
    training = [line for line in lines if line.startswith("training")]
    assert any("loss" in line and "tokens/s" in line and "left" in line for line in training)
    assert any(line.startswith("evaluating") and "tokens" in line for line in lines)
    screen = displayed(raw)
    assert [line.split("  ")[0] for line in screen] == ["step 0", "step 4/8", "step 8/8", "step 8/8"]
    assert raw.count("\x1b[?25l") == raw.count("\x1b[?25h")  # the cursor is hidden, and shown again


def displayed(raw: str) -> list[str]:
    """The lines that a terminal shows in the end: enough of one for what rich writes."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.", raw, re.DOTALL):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
        elif part.endswith("K") and part.startswith("\x1b"):
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row].ljust(column)[:column] + part + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


def test_after_an_error_no_bar_is_left(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    trainer = trainer_of(tiny, tmp_path / "run")

    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(trainer, "create_optimizer", fail)
    displays = []

    def train() -> None:
        with progress_display(console) as display:
            displays.append(display)
            trainer.add_callback(ProgressBar(display))
            display.start()
            trainer.train()

    with pytest.raises(RuntimeError, match="broken"):
        train()
    assert not displays[0].live.is_started


@pytest.mark.parametrize("flags", [Tiny.flags, dynamic], ids=["trainer", "dynamic"])
def test_elsewhere_a_long_evaluation_and_long_steps_have_lines(
    tiny: Tiny,
    tmp_path: Path,
    flags: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interval = ("--logging_steps", "100") if flags is Tiny.flags else ("--log_interval", "100")
    argv = flags(tiny, tmp_path / "run", "--max_steps", "6", *interval, "--overwrite_output_dir")
    assert main(argv) == 0
    quick = capsys.readouterr().out
    monkeypatch.setattr(progress_bar, "LINE_SECONDS", 0.0)
    assert main(argv) == 0
    slow = capsys.readouterr().out
    for pattern in (r"^evaluation: [\d,]+/[\d,]+ tokens, 0:\d\d left$", r"^step 2/6, 0:\d\d left$"):
        assert re.search(pattern, slow, re.MULTILINE), slow
        assert not re.search(pattern, quick, re.MULTILINE), quick
    assert "\x1b" not in slow


def test_log_lines_have_the_remaining_time(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tiny.flags(tmp_path / "run")) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"step \d/4  loss", line)]
    assert [bool(re.search(r", 0:\d\d left$", line)) for line in lines] == [True, True, True, False]


@pytest.mark.parametrize(("interval", "logged"), [("100", [3]), ("2", [2]), ("3", [3])])
def test_a_run_shorter_than_the_interval_logs_its_loss_at_the_end(
    tiny: Tiny, tmp_path: Path, interval: str, logged: list[int]
) -> None:
    words = ("--max_steps", "3", "--logging_steps", interval, "--disable_tqdm", "true")
    assert main(tiny.flags(tmp_path / "run", *words)) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == logged
