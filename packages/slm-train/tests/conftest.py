"""A tiny model and a few stories, made once: every test trains in seconds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from slm_data import train_tokenizer
from slm_data.sample.corpus import stories
from slm_train.cli import main


@dataclass(frozen=True)
class Tiny:
    """What the tests train: ``model`` a folder, ``texts`` and ``held_out`` .txt files, one story a document."""

    model: Path
    texts: Path
    held_out: Path
    cache: Path

    def flags(self, output_dir: Path | str, *more: str) -> list[str]:
        """A short run; later flags win."""
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
            "bf16": "false",
            "prompt": "",
        }
        given = {word.removeprefix("--").partition("=")[0] for word in more if word.startswith("--")}
        words = [word for name, value in fixed.items() if name not in given for word in (f"--{name}", str(value))]
        return [*words, *more]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("tiny")
    train, held_out = list(stories(120, seed=1)), list(stories(12, seed=2))
    for name, texts in (("texts.txt", train), ("held_out.txt", held_out)):
        (root / name).write_text("\n\n\n".join(texts))
    tokenizer = train_tokenizer(train, 400, model_max_length=128)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = root / "model"
    GPT2LMHeadModel(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    return Tiny(model, root / "texts.txt", root / "held_out.txt", root / "cache")


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not cut the power: a busy disk takes 20 ms for each of thousands of syncs."""
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


Refused = Callable[[Sequence[str]], str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command line that must be refused: exit code 2 and one sentence, which is returned."""

    def run(argv: Sequence[str]) -> str:
        code = main([str(word) for word in argv])
        said = capsys.readouterr()
        assert code == 2, said
        assert "Traceback" not in said.err
        lines = said.err.strip().splitlines()
        assert len(lines) == 1, said.err
        return lines[0]

    return run


def run_command(argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """``slm-train`` in a process of its own, as a user runs it."""
    command = [sys.executable, "-m", "slm_train.cli", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def read_record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


# Flags that make another run of one whose mode is lora, and what the refusal to go on with it names.
OTHER_RUNS = [(("--mode", "baseline"), "mode"), (("--max_train_samples", "9"), "data"), (("--lora_r", "3"), "adapter")]
