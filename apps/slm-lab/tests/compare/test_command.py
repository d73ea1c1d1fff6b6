"""``slm-lab compare``: with a fake trainer, and once with slm-train itself."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slm_testing.lab
from slm_lab.cli import main
from slm_lab.compare import child_process, preflight
from slm_lab.compare.command_lines import command_json
from slm_lab.compare.plan import plan_runs
from slm_lab.compare.settings import Budget, ComparisonSettings
from slm_lab.flags import parse_command_line
from slm_lab.variants import parse_variants
from slm_testing.lab.made_runs import make_record, write_run
from slm_train import main as slm_train_main

FAKE_TRAINER = Path(str(slm_testing.lab.__file__)).with_name("fake_trainer.py")
MODES = "baseline,lora,butterfly"


class Lab:
    """A comparison with the fake trainer, in the folder ``out``."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.out, self.monkeypatch, self.capsys = out, monkeypatch, capsys

    def __call__(self, *more: str, modes: str = MODES, steps: str = "8") -> tuple[int, str]:
        """Run the comparison. Returns the exit code and the output."""
        fixed = ["compare", "--modes", modes, "--max_steps", steps, "--threads", "1", "--output_dir", str(self.out)]
        code = main([*fixed, *more])
        captured = self.capsys.readouterr()
        return code, captured.out + captured.err

    def argv(self, name: str) -> list[str]:
        """Return the arguments with which a run was trained."""
        return list(json.loads((self.out / name / "argv.json").read_text()))

    def figures(self) -> dict[str, Any]:
        return dict(json.loads((self.out / "compare.json").read_text()))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lab:
    (tmp_path / "record.json").write_text(json.dumps(make_record()))
    monkeypatch.setenv("FAKE_RECORD", str(tmp_path / "record.json"))
    monkeypatch.setattr(child_process, "PROGRAM", (sys.executable, str(FAKE_TRAINER)))
    return Lab(tmp_path / "out", monkeypatch, capsys)


def test_each_mode_is_trained_once_and_reported_on_the_page(lab: Lab) -> None:
    code, output = lab()
    assert code == 0
    assert [mode["name"] for mode in lab.figures()["modes"]] == MODES.split(",")
    assert "step 4/8 evaluation:" in output
    assert (lab.out / "compare.html").is_file()
    assert "evaluation:" in (lab.out / "lora" / "train.log").read_text()
    code, output = lab()
    assert code == 0
    assert all(f"{mode}: already finished" in output for mode in MODES.split(","))
    assert "evaluation:" not in output


def test_further_seeds_and_modes_train_only_what_is_new(lab: Lab) -> None:
    lab(modes="lora")
    code, output = lab("--seeds", "2", modes="lora,butterfly")
    assert code == 0
    assert "lora: already finished" in output
    trained = [line.split(" (")[0] for line in output.splitlines() if " of 3)" in line]
    assert trained == ["butterfly", "lora-seed43", "butterfly-seed43"]
    assert [len(mode["runs"]) for mode in lab.figures()["modes"]] == [2, 2]


def test_a_failed_mode_does_not_end_the_others_and_sets_the_exit_code(lab: Lab) -> None:
    lab.monkeypatch.setenv("FAKE_FAILING", "lora")
    code, output = lab()
    assert code == 1
    assert "failed: RuntimeError: no memory for <this>" in output
    figures = lab.figures()
    assert [mode["name"] for mode in figures["modes"]] == ["baseline", "butterfly"]
    assert figures["left_out"] == {"lora": "it failed: RuntimeError: no memory for <this>"}
    assert "no memory for &lt;this&gt;" in (lab.out / "compare.html").read_text()
    lab.monkeypatch.delenv("FAKE_FAILING")
    assert lab()[0] == 0
    assert lab.figures()["left_out"] == {}


def test_a_mode_that_cannot_run_here_is_left_out_with_the_reason(lab: Lab) -> None:
    lab.monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    code, output = lab(modes="lora,qlora")
    assert code == 0
    assert "qlora is left out: it needs bitsandbytes" in output
    assert not (lab.out / "qlora").exists()
    code, output = lab(modes="qlora")
    assert code == 2
    assert "none of the modes can run here: it needs bitsandbytes" in output


def test_a_run_with_other_settings_is_refused_with_the_difference_and_nothing_is_trained(lab: Lab) -> None:
    lab(modes="lora")
    code, output = lab(modes="butterfly,lora", steps="16")
    assert code == 2
    assert "was trained with --max_steps 8 instead of --max_steps 16" in output
    assert not (lab.out / "butterfly").exists()
    code, output = lab("--again", modes="lora", steps="16")
    assert code == 0
    assert lab.argv("lora")[lab.argv("lora").index("--max_steps") + 1] == "16"
    assert lab(modes="lora", steps="16")[0] == 0


def test_a_run_that_slm_lab_did_not_start_is_left_unchanged(lab: Lab) -> None:
    write_run(lab.out / "lora", "lora")
    before = (lab.out / "lora" / "run.json").read_bytes()
    code, output = lab(modes="lora")
    assert code == 2
    assert "contains a run that slm-lab did not start" in output
    assert (lab.out / "lora" / "run.json").read_bytes() == before


def test_a_damaged_record_is_refused_by_name(lab: Lab) -> None:
    lab(modes="lora")
    (lab.out / "lora" / "run.json").write_text("{")
    code, output = lab(modes="lora")
    assert code == 2
    assert "run.json: it is not valid JSON" in output
    assert lab("--again", modes="lora")[0] == 0


def test_a_folder_that_cannot_be_written_is_reported_in_one_sentence(lab: Lab) -> None:
    lab.out.mkdir()
    (lab.out / "lora").write_text("a file")
    code, output = lab(modes="lora")
    assert code == 2
    assert f"cannot write into {lab.out / 'lora'}: File exists" in output.replace("\n", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_forwarded_to_the_child_and_the_same_command_continues(
    lab: Lab, number: signal.Signals, code: int
) -> None:
    lab.monkeypatch.setenv("FAKE_WAITING", "lora")
    threading.Thread(target=_send_signal, args=(lab.out / "lora" / "train.log", number), daemon=True).start()
    handler = signal.getsignal(number)
    exit_code, output = lab()
    assert exit_code == code
    assert f"interrupted by {number.name}; repeat the command to continue" in output
    assert signal.getsignal(number) is handler
    assert not (lab.out / "butterfly").exists()
    if number == signal.SIGINT:
        assert json.loads((lab.out / "lora" / "run.json").read_text())["status"] == "stopped"
        exit_code, output = lab()
        assert exit_code == 0
        assert "baseline: already finished" in output
        assert "lora, resumed (1 of 2)" in output
        assert "--resume_from_checkpoint" in lab.argv("lora")
        assert "--resume_from_checkpoint" not in lab.argv("butterfly")


def _send_signal(log: Path, number: signal.Signals) -> None:
    """Send a signal to this process once the trainer waits."""
    while not (log.exists() and "waiting" in log.read_text()):
        time.sleep(0.02)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max_steps", "0"), "'0' is not an integer of at least 1"),
        (("--max_minutes", "inf"), "'inf' is not a positive number of minutes"),
        ((), "one of the arguments --max_steps --max_tokens --max_minutes is required"),
        (("--max_steps", "4", "--max_tokens", "9"), "not allowed with argument --max_steps"),
        (("--max_steps", "4", "--modes", "lora,lorra"), "'lorra' is not a mode; choose from baseline, lora"),
        (("--max_steps", "4", "--modes", "lora:rank=4"), "lora has no option 'rank=4'; it has r=, alpha=, lr="),
        (("--max_steps", "4", "--match_to", "lora"), "needs --match parameters"),
        (("--max_steps", "4", "--modes", "lora,oft", "--match", "parameters"), "add butterfly to --modes"),
        (
            ("--max_steps", "4", "--modes", "baseline,butterfly", "--match", "parameters", "--match_to", "baseline"),
            "--match_to baseline must be one of --modes, and an adapter: butterfly",
        ),
        (
            ("--max_steps", "4", "--modes", "butterfly,lora", "--match", "parameters", "--lora_r", "2"),
            "--lora_r sets what --match parameters chooses for lora",
        ),
        (("--max_steps", "4", "--mode", "lora"), "--mode is set by the comparison: use --modes"),
        (("--max_steps", "4", "--seeds", "none"), "'none' is not an integer"),
        (("--max_steps", "4", "--lora_rnk", "8"), "did you mean --lora_r?"),
        (("--max_steps", "4", "--train_file", "gone.txt", "stray", "--block_size", "x"), "--block_size"),
        (("--max_tokens", "99", "--streaming"), "--streaming has no effect"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_reported_in_one_sentence_before_anything_is_trained(
    tmp_path: Path, refused: Callable[..., str], flags: tuple[str, ...], message: str
) -> None:
    assert message in refused("compare", "--output_dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_every_budget_makes_command_lines_that_slm_train_accepts(tmp_path: Path) -> None:
    for budget in (Budget("steps", 200), Budget("tokens", 10_000), Budget("minutes", 1.5)):
        settings = ComparisonSettings(parse_variants(f"{MODES},lora:r=4,dora,oft"), budget, (42, 43), tmp_path)
        preflight.check_command_lines(plan_runs(settings))


def test_variants_are_trained_in_folders_of_their_own_and_named_in_reports(lab: Lab) -> None:
    code, output = lab(modes="lora,lora:r=4,butterfly:quality")
    assert code == 0
    assert {"lora", "lora-r4", "butterfly-quality"} <= {path.name for path in lab.out.iterdir()}
    assert lab.argv("lora-r4")[lab.argv("lora-r4").index("--lora_r") + 1] == "4"
    named = {mode["name"]: mode["label"] for mode in lab.figures()["modes"]}
    assert named == {"lora": "lora", "lora-r4": "lora r=4", "butterfly-quality": "butterfly quality"}
    assert "lora r=4" in output


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two modes on the built-in sample, trained by slm-train.

    The first is trained in this process, because starting another takes long. `compare` finds it finished.
    """
    out = tmp_path_factory.mktemp("compare") / "out"
    small = "--max_train_samples 12 --max_eval_samples 2 --block_size 64 --per_device_train_batch_size 2 --threads 1"
    modes = ["compare", "--modes", "baseline,butterfly", "--max_steps", "4"]
    argv = [*modes, "--output_dir", str(out), *small.split(), "--prompt", "Once <b>"]
    first, _ = plan_runs(ComparisonSettings.from_arguments(parse_command_line(argv)))
    first.folder.mkdir(parents=True)
    (first.folder / "lab.json").write_text(command_json(first.argv, first.variant.label))
    assert slm_train_main(first.argv) == 0
    assert main(argv) == 0
    assert not (first.folder / "train.log").exists()
    return out


def test_two_modes_of_slm_train_are_compared_on_the_same_rows(compared: Path) -> None:
    figures = json.loads((compared / "compare.json").read_text())
    baseline, butterfly = (mode["figures"] for mode in figures["modes"])
    assert (figures["budget"], figures["axis"], figures["caveats"]) == ("4 optimizer steps", "steps", [])
    assert baseline["bits_before"] == butterfly["bits_before"]
    assert baseline["bits_after"]["median"] < baseline["bits_before"]["median"]
    assert butterfly["trainable"]["median"] < baseline["trainable"]["median"] / 10
    assert butterfly["shipped"]["median"] < butterfly["checkpoint"]["median"] < baseline["checkpoint"]["median"]
    for mode in figures["modes"]:
        (run,) = mode["runs"]
        assert [point["step"] for point in run["curve"]] == [0, 1, 2, 3, 4]
        assert run["samples"]["after"][0]["text"].startswith("Once <b>")
    text = (compared / "compare.html").read_text()
    assert "slm-train --max_steps 4" in text
    assert "Once &lt;b&gt;" in text
    assert "<b>" not in text
