"""Reading a Dockerfile, and carrying out the steps of a stage in a folder, without docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name in upper case, its flags (``--mount=...``), and the rest on one line."""

    name: str
    flags: tuple[str, ...]
    value: str

    @property
    def words(self) -> list[str]:
        """The value in exec form as a list, else its words."""
        return list(json.loads(self.value)) if self.value.startswith("[") else shlex.split(self.value)


def read_stages(path: Path) -> list[list[Instruction]]:
    """Return the instructions of each stage; the first of a stage is ``FROM``. What precedes the first is left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if match := re.fullmatch(r"(\w+)\s+((?:--\S+\s+)*)(.+)", line):
            instruction = Instruction(match[1].upper(), tuple(match[2].split()), match[3])
            if instruction.name == "FROM":
                stages.append([])
            stages[-1].append(instruction)
    return stages


def environment(stage: Sequence[Instruction]) -> dict[str, str]:
    """Return the variables that the ``ENV`` instructions of a stage set."""
    words = [word for instruction in stage if instruction.name == "ENV" for word in instruction.words]
    return dict(word.split("=", 1) for word in words)


def command(stage: Sequence[Instruction], name: str) -> list[str]:
    """Return the words of ``ENTRYPOINT`` or ``CMD``, or of the command of ``HEALTHCHECK``."""
    (instruction,) = [instruction for instruction in stage if instruction.name == name]
    return list(json.loads(instruction.value.removeprefix("CMD "))) if name == "HEALTHCHECK" else instruction.words


def carry_out(
    stage: Sequence[Instruction], context: Path, workdir: Path, *, replace: Mapping[str, bytes], **arguments: str
) -> None:
    """Copy files from ``context`` to ``workdir`` and run the commands of a stage there, in its shell.

    The tools that it installs with pip are expected to be there. ``replace`` has the contents of files that differ from
    those in ``context``; ``arguments`` replace the defaults of ``ARG``, and an empty one unsets it. Variables that name
    a mounted folder are left out.
    """
    mounts = {part.removeprefix("target=") for step in stage for flag in step.flags for part in flag.split(",")}
    own = {name: value for name, value in environment(stage).items() if value not in mounts}
    shell, variables = ["/bin/sh", "-c"], dict(os.environ) | own
    for instruction in stage:
        if instruction.name == "SHELL":
            shell = instruction.words
        elif instruction.name == "ARG":
            name, _, default = instruction.value.partition("=")
            variables.pop(name, None)
            variables |= {name: value} if (value := arguments.get(name, default)) else {}
        elif instruction.name == "COPY" and not instruction.flags:
            *sources, target = instruction.words
            for source in sources:
                _copy(context / source, workdir / target)
                if source in replace:
                    (workdir / target / source).write_bytes(replace[source])
        elif instruction.name == "RUN" and not instruction.value.startswith("pip install"):
            subprocess.run([*shell, instruction.value], cwd=workdir, env=variables, check=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        return
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
