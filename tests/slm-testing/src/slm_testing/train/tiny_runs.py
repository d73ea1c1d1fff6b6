"""A tiny model with its texts, and running slm-train."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Refused = Callable[[Sequence[str]], str]  # the fixture ``refused``: from a command line to its error message


@dataclass(frozen=True)
class Tiny:
    """Paths of a tiny model and its texts.

    ``model`` is a folder, ``texts`` and ``held_out`` are .txt files with one story per document, ``cache`` is the
    folder of the token cache.
    """

    model: Path
    texts: Path
    held_out: Path
    cache: Path

    def flags(self, output_dir: Path | str, *more: str) -> list[str]:
        """Return the flags of a short run; later flags take precedence."""
        fixed = {
            "model_path": self.model,
            "train_file": self.texts,
            "validation_file": self.held_out,
            "document_separator": r"\n\n\n",
            "output_dir": output_dir,
            "token_cache": self.cache,
            "block_size": 64,
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "logging_steps": 1,
            "threads": 1,
            "use_cpu": "true",
            "prompt": "",
            "bf16": "false",
        }
        overridden = {word.removeprefix("--").partition("=")[0] for word in more if word.startswith("--")}
        words = [word for name, value in fixed.items() if name not in overridden for word in (f"--{name}", str(value))]
        return [*words, *more]


def run_command(argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``slm-train`` in a new interpreter, as a user does."""
    command = [sys.executable, "-m", "slm_train.cli", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of run.json."""
    return dict(json.loads((folder / "run.json").read_text()))


# Flags that turn a lora run into another one, and what the refusal to continue it names.
OTHER_RUNS = [
    (("--mode", "baseline"), "--mode lora, now baseline"),
    (("--max_train_samples", "9"), "other training data: --max_train_samples none, now 9"),
    (("--lora_r", "3"), "--lora_r 16, now 3"),
]
