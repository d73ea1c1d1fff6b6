"""The report at the end of a run: a table, the texts before and after training, and commands to try next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slm_adapters import has_own_readme
from slm_train.arguments import Arguments
from slm_train.reports.next_commands import command_prefix, installed_commands, next_commands
from slm_train.run_folder.samples import Samples, recorded_samples

_SIDE_BY_SIDE = 90  # columns of a terminal from which two columns of text are readable
_LONGEST_LINE = 160
_INDENT = "  "
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def megabytes(size: float) -> str:
    """Format a number of bytes in MB (10**6 bytes)."""
    return f"{size / 1e6:,.1f} MB"


def show_report(console: Console, record: dict[str, Any]) -> None:
    """Print the table of ``record``, the content of run.json, and the texts before and after training."""
    table = Table(
        title=f"{record['mode']} on {record['dataset']}, base {record['base'] or 'from scratch'}",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    before, after = record["evaluation"]["before"], record["evaluation"]["after"]
    table.add_row("perplexity", f"{before['perplexity']:,.2f}", f"{after['perplexity']:,.2f}")
    table.add_row("bits per byte", f"{before['bits_per_byte']:.4f}", f"{after['bits_per_byte']:.4f}")
    memory = record["memory"]
    table.add_row(
        memory["kind"],
        megabytes(memory["before_model"]),
        megabytes(memory["with_model"]),
        end_section=True,
    )
    for name, value in _figures(record):
        table.add_row(name, "", value)
    console.print(table)
    tokens, block = after["tokens"], after["block_size"]
    console.print(
        f"Evaluated on {tokens:,} tokens{_share_of_validation(record)} in rows of at most {block}. Memory is shown "
        "before and after loading the model.",
        style="dim",
    )
    show_samples(console, recorded_samples(record))


def _share_of_validation(record: dict[str, Any]) -> str:
    """Return how many tokens the validation split has, if only a part of them is evaluated."""
    validation = record["data"]["validation"]
    if validation.get("evaluated_rows", validation["rows"]) == validation["rows"]:
        return ""
    return f" (--max_eval_tokens; the validation texts have {validation['tokens']:,})"


def _figures(record: dict[str, Any]) -> list[tuple[str, str]]:
    parameters, memory, speed = record["parameters"], record["memory"], record["speed"]
    percent = 100 * parameters["trainable"] / max(parameters["total"], 1)
    figures = [
        ("trainable parameters", f"{parameters['trainable']:,} ({percent:.2f} %)"),
        ("all parameters", f"{parameters['total']:,}"),
        ("weights", megabytes(memory["weights"])),
        ("gradients", megabytes(memory["gradients"])),
        ("optimizer state", megabytes(memory["optimizer"])),
        ("peak memory", megabytes(memory["peak"])),
        ("tokens per second", f"{speed['tokens_per_second']:,.0f}"),
        ("steps, time", f"{speed['steps']:,}, {speed['train_seconds']:,.0f} s"),
    ]
    if checkpoints := record.get("checkpoints"):  # of the token-budget loop
        figures.append(("checkpoints", f"{checkpoints['written']:,}, {checkpoints['share']:.1%} of the time"))
    return figures


def show_samples(console: Console, samples: dict[str, Samples]) -> None:
    """Print the texts before and after training: side by side in a wide terminal, else one below the other."""
    before, after = samples.get("before", []), samples.get("after", [])
    if console.is_terminal and console.width >= _SIDE_BY_SIDE and len(before) == len(after) > 0:
        console.print()
        console.print(_side_by_side(before, after, min(console.width, _LONGEST_LINE)), soft_wrap=False)
        return
    width = min(console.width, _LONGEST_LINE)
    for index in range(max(len(before), len(after))):
        for when, texts in (("before", before), ("after", after)):
            if index < len(texts):
                console.print(f"\n[bold]{when} training[/]")
                for line in _styled(texts[index]).wrap(console, width - len(_INDENT)):
                    line.rstrip()
                    console.print(Text(_INDENT) + line)


def _side_by_side(before: Samples, after: Samples, width: int) -> Table:
    table = Table(width=width, show_lines=True)
    table.add_column("before training", ratio=1)
    table.add_column("after training", ratio=1)
    for old, new in zip(before, after, strict=True):
        table.add_row(_styled(old), _styled(new))
    return table


def _styled(sample: dict[str, str]) -> Text:
    """Return a sample with its prompt dimmed. Control characters cannot reach the terminal."""
    prompt, text = sample["prompt"], sample["text"]
    start = prompt if text.startswith(prompt) else ""
    parts = (_printable(start).lstrip(), _printable(text[len(start) :]).rstrip())
    return Text.assemble((parts[0], "dim"), parts[1])


def _printable(text: str) -> str:
    """Return ``text`` without control characters, and with at most one empty line in a row."""
    return re.sub(r"\n\s*\n\s*\n+", "\n\n", _CONTROL.sub("\ufffd", text.replace("\r\n", "\n")))


def show_next_commands(console: Console, arguments: Arguments, record: dict[str, Any], folder: Path) -> None:
    """Print the run folder, and a command for each of the things to do with it."""
    card = "README.md is your own and was left as it is" if has_own_readme(folder) else "README.md is its model card"
    console.print(f"\nrun folder: {folder}   ({card})", markup=False)
    commands = next_commands(arguments, record, folder, installed_commands(), command_prefix())
    _show_commands(console, commands)


def _show_commands(console: Console, commands: Sequence[tuple[str, str]]) -> None:
    if not commands:
        return
    console.print("next:")
    width = max(len(purpose) for purpose, _ in commands)
    for purpose, command in commands:
        # Not wrapped: a command is copied as a whole.
        console.print(f"  {purpose:{width}}  {command}", markup=False, soft_wrap=True)
