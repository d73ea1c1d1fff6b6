"""README commands with caps on steps and tokens; without a hub, with the built-in base model and corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from slm_testing.workspace.readme_blocks import ROOT
from slm_testing.workspace.wrapper_lines import program_line

TRAINING_CAPS = {"max_train_samples": "24", "max_eval_samples": "2", "block_size": "64", "max_steps": "8"}
TRAINING_CAPS |= {"per_device_train_batch_size": "2", "prompt": "", "threads": "1"}
CAPS: dict[tuple[str, ...], dict[str, str]] = {
    ("slm-train",): TRAINING_CAPS,
    ("slm-train", "dynamic"): TRAINING_CAPS | {"target_tokens_per_step": "256"},
    ("slm-lab", "compare"): {"max_steps": "2"},
    ("slm-paged",): {"max_new_tokens": "8", "threads": "1"},
    ("slm-bench", "kv"): {"max_new_tokens": "8", "rounds": "1", "threads": "1"},
    ("slm-bench", "kv", "--engine"): {"rounds": "1", "threads": "1"},
    ("slm-serve",): {"port": "0", "threads": "1"},
}

# Words of a README line that start a program: its name, or the module given to torchrun and accelerate launch.
PROGRAMS = {program: program for program, *_ in CAPS} | {"slm-adapters": "slm-adapters", "slm_train.cli": "slm-train"}


def capped(words: Sequence[str], hub: bool = False) -> list[str]:
    """Return a command of one of our programs with its caps.

    Without a ``hub``, the built-in base model and corpus replace those of the hub.
    """
    # The longest matching prefix applies: "slm-bench kv --engine" before "slm-bench kv".
    caps = next((CAPS[key] for size in (3, 2, 1) if (key := (*words[:size],)) in CAPS), {})
    return with_flags(words, caps | ({} if hub else _built_in_sources(words)))


def capped_line(words: Sequence[str], hub: bool = False) -> list[str]:
    """Like ``capped``, for a README line that may start with a launcher such as ``uv run`` or ``torchrun``."""
    if words[-1] == "pytest":
        return [*words, "--version"]
    index = next(index for index, word in enumerate(words) if word in PROGRAMS or word.startswith("scripts/"))
    program = PROGRAMS.get(words[index]) or program_line(ROOT / words[index])[0]
    return [*words[: index + 1], *capped([program, *words[index + 1 :]], hub)[1:]]


def with_flags(words: Sequence[str], flags: Mapping[str, str]) -> list[str]:
    """Return ``words`` with these flags, which replace those of the same name."""
    command = list(words)
    for name, value in flags.items():
        if f"--{name}" in command:
            command[command.index(f"--{name}") + 1] = value
        else:
            command += [f"--{name}", value]
    return command


def _built_in_sources(words: Sequence[str]) -> dict[str, str]:
    flags = {"dataset": "sample"} if "--dataset" in words else {}
    model = words[words.index("--model_path") + 1] if "--model_path" in words else ""
    if "--train_file" in words or (model and not Path(model).is_dir()):
        flags["model_path"] = "sample"
    return flags


def run(words: Sequence[str]) -> int:
    """Run one of our programs in this process, and return its exit code."""
    (program,) = entry_points(group="console_scripts", name=words[0])
    code: int = program.load()(list(words[1:]))
    return code
