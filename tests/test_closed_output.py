"""Commands whose output nobody reads any more end quietly, as ``grep ... | head`` does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CLOSED_OUTPUT = 141  # 128 + SIGPIPE
SCRIPTS = ("slm-adapters", "slm-bench", "slm-lab", "slm-paged", "slm-serve", "slm-train")
SCRIPT = Path(sys.executable).parent
LONG_TEXT = ["--threads", "1", "--max_new_tokens", "200", "--ignore_eos", "--on_full", "window"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_that_nobody_reads_ends_quietly(script: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([SCRIPT / script, "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode in (0, CLOSED_OUTPUT)  # argparse itself ignores that nobody reads its help
    assert done.stderr == ""


def first_line(command: list[str]) -> tuple[str, int, str]:
    """The first line that a command prints, its exit code after nobody reads any more, and its errors."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    return line, process.returncode, errors


def test_a_text_that_is_not_read_to_its_end_ends_quietly() -> None:
    line, code, errors = first_line([str(SCRIPT / "slm-paged"), *LONG_TEXT])
    assert line.startswith("weights: ")
    assert (code, errors) == (CLOSED_OUTPUT, "")


def test_a_server_whose_ready_message_nobody_reads_ends_quietly() -> None:
    line, code, errors = first_line([str(SCRIPT / "slm-serve"), "--port", "0", "--threads", "1"])
    assert line == "loading sample\n"
    assert (code, errors) == (CLOSED_OUTPUT, "")
