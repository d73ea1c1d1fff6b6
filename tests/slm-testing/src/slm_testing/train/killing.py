"""Runs of slm-train that are killed at random moments and resumed, compared with an uninterrupted one.

    python -m slm_testing.train.killing --kills 10 --mode lora
    python -m slm_testing.train.killing --kills 20 --dynamic
    python -m slm_testing.train.killing --kills 20 --dynamic -- --dataset tinystories --max_train_samples 200

prints each kill and whether the weights and the metrics are those of the uninterrupted run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import slm_testing.forked as forked


def start(argv: list[str], **environment: str) -> Any:
    """Start slm-train in a forked process."""
    return forked.start("slm_train.cli", argv, **environment)


def finish(argv: list[str]) -> int:
    """Run slm-train to its end; return its exit code."""
    process = start(argv)
    process.join(300)
    return int(process.exitcode if process.exitcode is not None else -1)


@dataclass(frozen=True)
class Outcome:
    """The result of a run: the hash of its weights, and the lines of its log without times and memory."""

    weights: str
    lines: list[dict[str, Any]]

    @property
    def losses(self) -> dict[int, float]:
        return {line["step"]: line["loss"] for line in self.lines if "loss" in line}


# Values of clocks and of the allocator, which differ from run to run.
VARYING = {"tokens_per_second", "memory", "eval_seconds", "eval_runtime"}
VARYING |= {"eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time"}


def outcome(folder: Path) -> Outcome:
    """Read the result of a run. Asserts that no step was logged twice."""
    weights = next(file for file in sorted(folder.glob("*.safetensors")))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if name not in VARYING} for line in lines]
    result = Outcome(sha256(weights.read_bytes()).hexdigest(), kept)
    assert len(result.losses) == len([line for line in lines if "loss" in line]), "a step was logged twice"
    return result


def kill_and_resume(argv: list[str], folder: Path, kills: int, seed: int, longest: float = 1.5) -> list[str]:
    """Kill a run ``kills`` times, each at a random moment after it has logged a step, and resume it; then finish it.

    Args:
        argv: The command line, without ``--resume_from_checkpoint``.
        folder: The run folder.
        kills: How often to kill it.
        seed: Determines the moments.
        longest: Seconds after a logged step within which it is killed.

    Returns:
        A line about each kill.
    """
    rng, lines = random.Random(seed), []
    argv = [*argv, "--resume_from_checkpoint"]
    for _ in range(kills):
        before = _last_step(folder)
        process = start(argv)
        while process.is_alive() and _last_step(folder) <= before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, longest))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        checkpoints = sorted(path.name for path in folder.glob("*checkpoint*"))
        lines.append(f"{_ending(process.exitcode)} at step {_last_step(folder)}, {checkpoints}")
    assert finish(argv) == 0
    return lines


def _ending(code: int | None) -> str:
    return "killed" if code == -signal.SIGKILL else f"had ended by itself ({code})"


def _last_step(folder: Path) -> int:
    """Return the last logged step, -1 before any. It decreases when a run resumes, and increases while it trains."""
    try:  # a run that starts from the beginning may remove the file at any moment
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=-1)


FLOWS = {
    False: "--per_device_train_batch_size 2 --logging_steps 1 --save_steps 1 --num_train_epochs 9",
    True: "--target_tokens_per_step 150 --log_interval 1 --eval_interval 25",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--mode", default="lora")
    parser.add_argument("--dynamic", action="store_true", help="the token-budget loop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "flags", nargs="*", help="flags of slm-train, after --; they take precedence over those of this script"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        steps = str(12 * options.kills)
        common = "--dataset sample --max_train_samples 100 --max_eval_samples 5 --block_size 64"
        common += f" --mode {options.mode}"
        argv = [
            *common.split(),
            "--threads",
            "1",
            "--max_steps",
            steps,
            "--prompt",
            "",
            *FLOWS[options.dynamic].split(),
            *options.flags,
        ]
        argv = ["dynamic", *argv] if options.dynamic else argv
        uninterrupted, killed = Path(scratch, "uninterrupted"), Path(scratch, "killed")
        assert finish([*argv, "--output_dir", str(uninterrupted)]) == 0
        for line in kill_and_resume([*argv, "--output_dir", str(killed)], killed, options.kills, options.seed):
            print(line, flush=True)
        same = outcome(uninterrupted) == outcome(killed)
        hashes = [outcome(folder).weights[:16] for folder in (killed, uninterrupted)]
        print(f"weights {hashes[0]}, uninterrupted {hashes[1]}; all equal: {same}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
