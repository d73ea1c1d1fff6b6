"""``slm-train --help``: the flags that most runs need, by group; ``--help_all``: every flag. Imports no torch."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from slm_data import SourceOptions
from slm_train.command_line.budget_flags import is_dynamic, is_hidden
from slm_train.command_line.help.texts import (
    DYNAMIC_ROW_TEXTS,
    DYNAMIC_TRAINING_TEXTS,
    OPENING,
    OPENING_DYNAMIC,
    TRAINING_TEXTS,
)
from slm_train.command_line.training_flags import TrainingFlag, training_flags
from slm_train.options.budget import BudgetOptions
from slm_train.options.model import ModelOptions
from slm_train.options.rows import RowOptions
from slm_train.options.run import RunOptions

GROUPS: dict[str, type[Any]] = {
    "texts": SourceOptions,
    "model and mode": ModelOptions,
    "rows": RowOptions,
    "run": RunOptions,
}
_SHORT_HELP, _LONG_HELP = {"-h", "--help"}, {"--help_all", "--help-all"}
_LEFT_COLUMN = 34  # characters for a flag and its value
_MIN_WIDTH, _MAX_WIDTH = 60, 110


def is_help_requested(argv: Sequence[str]) -> bool:
    """Return whether a command line asks for a help page."""
    return bool((_SHORT_HELP | _LONG_HELP) & set(argv))


def help_page(argv: Sequence[str]) -> str:
    """Return the page that a command line asks for, as wide as the terminal up to 110 columns."""
    dynamic, is_long = is_dynamic(argv), bool(_LONG_HELP & set(argv))
    width = max(_MIN_WIDTH, min(_MAX_WIDTH, shutil.get_terminal_size((100, 24)).columns))
    lines = [OPENING_DYNAMIC if dynamic else OPENING, *_our_groups(dynamic, width)]
    flags = {flag.name: flag for flag in training_flags() if not (dynamic and is_hidden(flag.name))}
    texts = TRAINING_TEXTS | DYNAMIC_TRAINING_TEXTS if dynamic else TRAINING_TEXTS
    lines += ["training:", *_training_group(flags, texts, is_long, width), ""]
    if not is_long:
        hidden = len(flags.keys() - texts.keys())
        command = "slm-train dynamic" if dynamic else "slm-train"
        lines.append(f"{command} --help_all has {hidden} more flags: all of Hugging Face's TrainingArguments.")
    return "\n".join(lines)


def _our_groups(dynamic: bool, width: int) -> Iterator[str]:
    groups = {"token budget": BudgetOptions} | GROUPS if dynamic else GROUPS
    texts = DYNAMIC_ROW_TEXTS if dynamic else {}
    for title, group in groups.items():
        yield f"{title}:"
        for field in fields(group):
            if not (dynamic and is_hidden(field.name)):
                flag = TrainingFlag(field.name, str(field.type), field.default, field.metadata.get("help", ""))
                yield from _entry(flag, texts.get(field.name, ""), width)
        yield ""


def _training_group(
    flags: dict[str, TrainingFlag], texts: Mapping[str, str], is_long: bool, width: int
) -> Iterator[str]:
    """Yield the flags that ``texts`` words, in its order, and for the long page all others."""
    for name, text in texts.items():
        if name in flags:
            yield from _entry(flags[name], text, width)
    for name, flag in flags.items() if is_long else ():
        if name not in texts:
            yield from _entry(flag, "", width)


def _entry(flag: TrainingFlag, text: str, width: int) -> Iterator[str]:
    """Yield the lines of one flag: name and value on the left, wrapped text on the right."""
    left = f"  --{flag.name} {'false' if flag.default is True else _value_name(flag.type)}".rstrip()
    wrapped = textwrap.wrap(text or _text_with_default(flag), width - _LEFT_COLUMN) or [""]
    if len(left) >= _LEFT_COLUMN:
        yield left
        left = ""
    yield f"{left:{_LEFT_COLUMN}}{wrapped[0]}"
    yield from (" " * _LEFT_COLUMN + line for line in wrapped[1:])


def _value_name(type_text: str) -> str:
    for word, name in (("list", "A B ..."), ("bool", ""), ("int", "N"), ("float", "X")):
        if word in type_text:
            return name
    return "TEXT"


def _text_with_default(flag: TrainingFlag) -> str:
    text = " ".join(flag.help.split()).replace("%%", "%")  # transformers writes its texts for argparse
    text = text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
    # The default of a switch shows in the shape of its flag; None, "" and -1 mean that the text explains it.
    is_shown = not isinstance(flag.default, bool) and flag.default not in (MISSING, None, "", -1)
    return f"{text} Default: {flag.default}." if is_shown and "efault" not in text else text
