"""A tiny model and a few stories, made once, on which a test trains in seconds."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from slm_data import harbour_stories, train_tokenizer
from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train.cli import main

# As the command does before it imports transformers, which is imported already here: tests count the lines of errors.
transformers_logging.set_verbosity_error()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("tiny")
    train, held_out = list(harbour_stories(120, seed=1)), list(harbour_stories(4, seed=2))
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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB; skips the test if this process may not mount one."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount_point)]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command line that must be refused with exit code 2 and one sentence; return the sentence."""

    def run(argv: Sequence[str]) -> str:
        code = main([str(word) for word in argv])
        output = capsys.readouterr()
        assert code == 2, output
        assert "Traceback" not in output.err
        lines = output.err.strip().splitlines()
        assert len(lines) == 1, output.err
        return lines[0]

    return run
