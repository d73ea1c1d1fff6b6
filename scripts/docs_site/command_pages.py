"""Reference pages of the commands as Markdown."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterator

from docs_site.command_flags import Command, Flag, argparse_command, train_commands

ARGPARSE_PROGRAMS = ("slm-adapters", "slm-paged", "slm-serve", "slm-bench", "slm-lab")
_WORD_AS_CODE = re.compile(r"(?<![\w/-])(--?[a-z]\w*(?:[-_]\w+)*|\$\w+|[a-z]+_[a-z_]+)(?!\w)")


def command_pages() -> dict[str, str]:
    """Return the Markdown of each page by its path in the site."""
    pages = {"slm-train": train_commands()} | {program: [argparse_command(program)] for program in ARGPARSE_PROGRAMS}
    return {
        f"reference/commands/{program}.md": f"# {program}\n\n" + "\n".join(_page(commands))
        for program, commands in pages.items()
    }


def _page(commands: list[Command]) -> Iterator[str]:
    for command in commands:
        if " " in command.name:
            yield f"## {command.name}\n"
        yield from _content(command, level=3 if " " in command.name else 2)
        yield from _page(command.subcommands)


def _content(command: Command, level: int) -> Iterator[str]:
    yield f"{_prose(_capitalised(command.description))}\n"
    if epilog := textwrap.dedent(command.epilog.strip("\n")):
        yield f"```text\n{epilog}\n```\n"
    for group in command.groups:
        if len(command.groups) > 1:
            yield f"{'#' * level} {_capitalised(group.title)} {{ #{_anchor(f'{command.name} {group.title}')} }}\n"
        yield from (_entry(flag, command) for flag in group.flags)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _entry(flag: Flag, command: Command) -> str:
    """One term of a definition list; the anchor is on the name of the flag."""
    names = " ".join(f"`{name}`" for name in flag.names)
    value = f"`{flag.value}`" if flag.value else ""
    term = " ".join(part for part in (names, value) if part)
    anchor = _anchor(f"{command.name} {flag.names[0] if flag.names else flag.value}")
    return f"{term}{{ #{anchor} }}\n:   {_prose(flag.text) or 'No description.'}\n"


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")


def _prose(text: str) -> str:
    """Return plain text as Markdown: names of flags and variables as code, everything else escaped."""
    escaped = re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
    return _WORD_AS_CODE.sub(r"`\1`", escaped)
