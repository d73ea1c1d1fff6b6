"""README commands are accepted by their programs, and README Python runs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from slm_data import sample_base
from slm_serve import Settings
from slm_testing.workspace.checked_commands import check
from slm_testing.workspace.readme_blocks import READMES, ROOT, TUTORIALS, Block, blocks_of
from slm_testing.workspace.servers import serving_in_thread

COMMANDS = [block for file in (*READMES, *TUTORIALS) for block in blocks_of(file, "bash")]
SERVER = "http://localhost:8000"
SMALL_REPLACEMENTS = {
    "distilbert/distilgpt2": str(sample_base()),
    '"tinystories"': '"sample"',
    "check(3072, stages=12)": "check(8, examples=2)",
}
WITH_PYTHON = [file for file in READMES if blocks_of(file, "python")]


@pytest.fixture
def server(trained: Callable[[str], Path]) -> Iterator[str]:
    """The URL of a server in this process, with adapters under the names used in the READMEs."""
    paths = {"red": trained("lora"), "stories": trained("lora"), "blue": trained("butterfly")}
    settings = Settings(adapter=[f"{name}={path}" for name, path in paths.items()], threads=1)
    with serving_in_thread(settings) as url:
        yield url


def test_blocks_provide_their_commands_and_requirements(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(
        textwrap.dedent("""\
        <!-- needs: a GPU -->
        <!-- marker -->
        ```bash
        one --name "two words" \\
            --more 3,4   # why
        four && five | six
        ```
        text
        ```bash
        seven
        ```
        """)
    )
    first, second = blocks_of(file, "bash")
    assert first.commands == [["one", "--name", "two words", "--more", "3,4"], ["four"], ["five"], ["six"]]
    assert (first.line, first.needs, second.needs) == (3, "a GPU", None)


@pytest.mark.parametrize("file", [*READMES, *TUTORIALS], ids=lambda file: str(file.relative_to(ROOT)))
def test_no_command_is_in_a_block_of_another_language(file: Path) -> None:
    others = [block for block in blocks_of(file) if block.language not in ("bash", "python")]
    lines = [line for block in others for line in block.text.splitlines()]
    assert [line for line in lines if line.startswith(("$ ", "uv ", "slm-"))] == []


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.name)
def test_the_programs_accept_the_commands_of_a_block(block: Block, readme_folder: Path) -> None:
    assert block.commands
    for words in block.commands:
        # This test is a single process, in which --fsdp is refused.
        check([word for word in words if word != "--fsdp" or "torchrun" not in words])


@pytest.mark.parametrize("file", WITH_PYTHON, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_python_of_a_readme_runs(
    file: Path, trained: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    """The built-in base and corpus replace those of the hub. Each block can use ``model`` and ``tokenizer``."""
    for name in ("lora", "butterfly"):
        trained(name)
    names: dict[str, Any] = {}
    for block in blocks_of(file, "python"):
        if block.needs:
            continue
        text = block.text
        for original, replacement in SMALL_REPLACEMENTS.items():
            text = text.replace(original, replacement)
        if SERVER in text:
            text = text.replace(SERVER, request.getfixturevalue("server"))
        torch.manual_seed(0)
        names |= {"model": AutoModelForCausalLM.from_pretrained(sample_base())}
        names |= {"tokenizer": AutoTokenizer.from_pretrained(sample_base())}
        exec(compile("\n" * block.line + text, str(file), "exec"), names)
