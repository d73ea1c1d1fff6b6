"""A command of a README made small: few steps, few tokens, and the built-in base and corpus where no hub answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from slm_testing.workspace.readme_blocks import ROOT
from slm_testing.workspace.wrapper_lines import program_line

RUN = {"max_train_samples": "24", "max_eval_samples": "2", "block_size": "64", "max_steps": "8"}
RUN |= {"per_device_train_batch_size": "2", "prompt": "", "threads": "1"}
SMALL: dict[tuple[str, ...], dict[str, str]] = {
    ("slm-train",): RUN,
    ("slm-train", "dynamic"): RUN | {"target_tokens_per_step": "256"},
    ("slm-lab", "compare"): {"max_steps": "2"},
    ("slm-paged",): {"max_new_tokens": "8", "threads": "1"},
    ("slm-bench", "kv"): {"max_new_tokens": "8", "rounds": "1", "threads": "1"},
    ("slm-bench", "kv", "--engine"): {"rounds": "1", "threads": "1"},
    ("slm-serve",): {"port": "0", "threads": "1"},
}

# What a line of a README starts: our programs, and the module that launchers of several processes name.
STARTED = {program: program for program, *_ in SMALL} | {"slm-adapters": "slm-adapters", "slm_train.cli": "slm-train"}


def capped(words: Sequence[str], hub: bool = False) -> list[str]:
    """``words`` of one of our programs with its caps; without a ``hub``, with what is built in for what is not."""
    caps = next((SMALL[key] for size in (3, 2, 1) if (key := (*words[:size],)) in SMALL), {})
    return with_flags(words, caps | ({} if hub else _built_in(words)))


def capped_line(words: Sequence[str], hub: bool = False) -> list[str]:
    """The same for a line of a README, with what stands before our program."""
    if words[-1] == "pytest":
        return [*words, "--version"]
    at = next(at for at, word in enumerate(words) if word in STARTED or word.startswith("scripts/"))
    program = STARTED.get(words[at]) or program_line(ROOT / words[at])[0]
    return [*words[: at + 1], *capped([program, *words[at + 1 :]], hub)[1:]]


def with_flags(words: Sequence[str], flags: Mapping[str, str]) -> list[str]:
    """``words`` with these flags, in place of those of the same name."""
    found = list(words)
    for name, value in flags.items():
        if f"--{name}" in found:
            found[found.index(f"--{name}") + 1] = value
        else:
            found += [f"--{name}", value]
    return found


def _built_in(words: Sequence[str]) -> dict[str, str]:
    flags = {"dataset": "sample"} if "--dataset" in words else {}
    model = words[words.index("--model_path") + 1] if "--model_path" in words else ""
    if "--train_file" in words or (model and not Path(model).is_dir()):
        flags["model_path"] = "sample"
    return flags


def run(words: Sequence[str]) -> int:
    """Run one of our programs in this process; its exit code."""
    (program,) = entry_points(group="console_scripts", name=words[0])
    code: int = program.load()(list(words[1:]))
    return code
