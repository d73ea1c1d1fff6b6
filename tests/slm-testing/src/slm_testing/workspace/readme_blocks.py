"""The code blocks of a README, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[5]
READMES = [
    ROOT / "README.md",
    *(file for at in ("docs/*.md", "packages/*/README.md", "apps/*/README.md") for file in sorted(ROOT.glob(at))),
]

FENCE = re.compile(r"^```(\w*)\s*$")
COMMENT = re.compile(r"^<!--\s*(.*?)\s*-->$")
NEEDS = "needs:"
ENDS_A_COMMAND = {"&&", "||", "|", ";", "&"}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, what it holds, and what the comment above it says that it needs."""

    file: Path
    line: int
    language: str
    text: str
    needs: str | None

    @property
    def name(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Each command as its words; continued lines are joined, shell comments left out."""
        joined = self.text.replace("\\\n", " ")
        return [words for line in joined.splitlines() for words in _commands(line)]


def blocks_of(file: Path, language: str | None = None) -> list[Block]:
    """The blocks of ``language``, or all, of a Markdown file, in their order."""
    return [block for block in _blocks(file) if language in (None, block.language)]


def _blocks(file: Path) -> Iterator[Block]:
    lines = file.read_text().splitlines()
    at = 0
    while at < len(lines):
        if opened := FENCE.match(lines[at]):
            end = lines.index("```", at + 1)
            yield Block(file, at + 1, opened[1], "\n".join(lines[at + 1 : end]), _needs(lines[:at]))
            at = end
        at += 1


def _needs(above: list[str]) -> str | None:
    """What the HTML comments right above a block ask for."""
    while above and (comment := COMMENT.match(above.pop())):
        if comment[1].startswith(NEEDS):
            return comment[1].removeprefix(NEEDS).strip()
    return None


def _commands(line: str) -> Iterator[list[str]]:
    words: list[str] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    for word in lexer:
        if word in ENDS_A_COMMAND:
            yield words
            words = []
        else:
            words.append(word)
    if words:
        yield words
