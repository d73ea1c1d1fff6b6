"""The code blocks of the READMEs, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[5]
READMES = [
    ROOT / "README.md",
    *(
        file
        for pattern in (
            "docs/*.md",
            "docs/how-to/*.md",
            "packages/*/README.md",
            "apps/*/README.md",
            "deploy/README.md",
        )
        for file in sorted(ROOT.glob(pattern))
    ),
]
TUTORIALS = sorted(ROOT.glob("docs/tutorials/*.md"))  # whose blocks are run in order

FENCE = re.compile(r"^```(\w*)\s*$")
COMMENT = re.compile(r"^<!--\s*(.*?)\s*-->$")
NEEDS = "needs:"
COMMAND_SEPARATORS = {"&&", "||", "|", ";", "&"}


@dataclass(frozen=True)
class Block:
    """A fenced code block. ``needs`` is the requirement in the comment above it, such as "a GPU"."""

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
        """The words of each command; continued lines are joined, comments omitted."""
        joined = self.text.replace("\\\n", " ")
        return [words for line in joined.splitlines() for words in _commands(line)]


def blocks_of(file: Path, language: str | None = None) -> list[Block]:
    """Return the blocks of a Markdown file in order, of ``language`` if given."""
    return [block for block in _blocks(file) if language in (None, block.language)]


def _blocks(file: Path) -> Iterator[Block]:
    lines = file.read_text().splitlines()
    index = 0
    while index < len(lines):
        if fence := FENCE.match(lines[index]):
            end = lines.index("```", index + 1)
            yield Block(file, index + 1, fence[1], "\n".join(lines[index + 1 : end]), _needs(lines[:index]))
            index = end
        index += 1


def _needs(above: list[str]) -> str | None:
    """Return the requirement in the HTML comments directly above a block, or None."""
    while above and (comment := COMMENT.match(above.pop())):
        if comment[1].startswith(NEEDS):
            return comment[1].removeprefix(NEEDS).strip()
    return None


def _commands(line: str) -> Iterator[list[str]]:
    words: list[str] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    for word in lexer:
        if word in COMMAND_SEPARATORS:
            yield words
            words = []
        else:
            words.append(word)
    if words:
        yield words
