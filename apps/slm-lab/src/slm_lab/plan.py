"""From what is asked for to runs of slm-train: each mode, each seed, its folder and its command line. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slm_lab.errors import LabError

MOMENTS = 8  # evaluations on the way: points of a learning curve
TOKENS_PER_STEP = 2048
SAMPLE = "sample"

_CURVES = f"curves need evaluations at {MOMENTS} like moments; leave it out"
DECIDED = {
    "mode": "give --modes",
    "num_train_epochs": "give --max_steps, --max_tokens or --max_minutes",
    "eval_strategy": _CURVES,
    "evaluation_strategy": _CURVES,
    "eval_steps": _CURVES,
    "eval_interval": _CURVES,
    "log_interval": _CURVES,
    "resume_from_checkpoint": "a comparison always goes on where it was stopped; leave it out",
    "overwrite_output_dir": "give --again to train anew",
    "dry_run": "slm-train --dry_run says it of one mode",
}
# What some modes have no use for; slm-train would refuse them there.
MODES_OF = {
    "muon": {"baseline"},
    "butterfly_block_size": {"butterfly_block"},
    "load_in_4bit": {"lora", "qlora", "butterfly", "butterfly_block"},
}
# What says where and how a run is computed, not what is computed.
ASIDE = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "threads", "token_cache"} | {
    "preprocessing_num_workers"
}


@dataclass(frozen=True)
class Budget:
    """What each mode gets: optimizer steps, predicted tokens, or minutes of training."""

    kind: Literal["steps", "tokens", "minutes"]
    amount: float


@dataclass(frozen=True)
class Settings:
    """A comparison. ``passed_on``: words of the command line that go to slm-train."""

    modes: tuple[str, ...]
    budget: Budget
    seeds: tuple[int, ...]
    output_dir: Path
    dataset: str | None = None
    passed_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, _ in flags_in(self.passed_on):
            if name in DECIDED:
                raise LabError(f"--{name} is decided by the comparison: {DECIDED[name]}")

    @classmethod
    def of(cls, given: Any) -> Settings:
        """From a command line, as ``flags.parse`` returns it. Raises LabError."""
        kinds: tuple[Literal["steps", "tokens", "minutes"], ...] = ("steps", "tokens", "minutes")
        amounts = {kind: getattr(given, f"max_{kind}") for kind in kinds}
        kind = next(kind for kind in kinds if amounts[kind] is not None)
        seeds = tuple(range(given.seed, given.seed + given.seeds))
        budget = Budget(kind, amounts[kind])
        return cls(given.modes, budget, seeds, given.output_dir, given.dataset, given.passed_on)


@dataclass(frozen=True)
class Planned:
    """A run of slm-train, with the words after its name."""

    mode: str
    seed: int
    folder: Path
    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.name


def plan(settings: Settings) -> list[Planned]:
    """Every mode with the first seed, then with the next: what is stopped early still compares all modes."""
    return [_planned(settings, mode, seed) for seed in settings.seeds for mode in settings.modes]


def _planned(settings: Settings, mode: str, seed: int) -> Planned:
    # The first seed has no suffix: asked for more seeds later, what is there counts.
    folder = settings.output_dir / (mode if seed == settings.seeds[0] else f"{mode}-seed{seed}")
    given = flags_in(settings.passed_on)
    fitting = [word for name, words in given if mode in MODES_OF.get(name, {mode}) for word in words]
    own = ["--mode", mode, "--seed", str(seed), "--output_dir", str(folder)]
    # Without a dataset slm-train takes the built-in sample, with limits and learning rates that suit a short run.
    source = ["--dataset", settings.dataset] if settings.dataset not in (None, SAMPLE) else []
    words = [*_of_budget(settings.budget, dict(_values(given))), *source, *own, *fitting]
    return Planned(mode, seed, folder, tuple(words))


def _of_budget(budget: Budget, given: Mapping[str, str]) -> list[str]:
    if budget.kind == "tokens":
        each = int(given.get("target_tokens_per_step") or min(budget.amount, TOKENS_PER_STEP))
        steps = max(1, round(budget.amount / each))
        every = math.ceil(steps / MOMENTS)
        flags: dict[str, float] = {"max_steps": steps, "eval_interval": every, "log_interval": every}
        flags |= {"target_tokens_per_step": each, "checkpoint_interval": every}
        return ["dynamic", *_words(flags, given)]
    steps_or_share = math.ceil(budget.amount / MOMENTS) if budget.kind == "steps" else 1 / MOMENTS
    keeps = {} if "save_strategy" in given else {"save_steps": steps_or_share, "save_total_limit": 1}
    flags = {f"max_{budget.kind}": budget.amount, "eval_steps": steps_or_share} | keeps
    return [*_words(flags, given), "--eval_strategy", "steps"]


def _words(flags: Mapping[str, float], given: Mapping[str, str]) -> list[str]:
    return [word for name, value in flags.items() if name not in given for word in (f"--{name}", f"{value:.10g}")]


def flags_in(words: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Each flag by its name, dashes as underscores, with its words; words before the first one have no name."""
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            found.append((word.partition("=")[0].removeprefix("--").replace("-", "_"), [word]))
        elif found:
            found[-1][1].append(word)
        else:
            found.append(("", [word]))
    return [(name, tuple(own)) for name, own in found]


def _values(flags: Iterable[tuple[str, tuple[str, ...]]]) -> Iterable[tuple[str, str]]:
    for name, words in flags:
        joined = words[0].partition("=")[2]
        yield name, " ".join([*([joined] if joined else []), *words[1:]])


def difference(before: Sequence[str], now: Sequence[str]) -> str | None:
    """How the run of one command line differs from that of another, in a few words; None where it does not."""
    then, today = (dict(_values(flags_in(words))) for words in (before, now))
    for name in [*today, *then]:
        if name not in ASIDE and then.get(name) != today.get(name):
            return f"{_said(name, then)}, now {'it is' if name in today else 'there is'} {_said(name, today)}"
    return None


def _said(name: str, values: Mapping[str, str]) -> str:
    flag = f"--{name}" if name else "the words"
    return f"{flag} {values[name]}".rstrip() if name in values else f"no {flag}"


def as_json(argv: Sequence[str]) -> str:
    """What is kept of a command line beside its run."""
    return json.dumps({"argv": list(argv)}, indent=1) + "\n"
