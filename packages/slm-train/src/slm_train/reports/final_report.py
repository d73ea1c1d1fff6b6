"""The report at the end of a run: a table, two text samples, and a command to try next."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


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
    _show_samples(console, record["samples"])


def _share_of_validation(record: dict[str, Any]) -> str:
    """Return how many tokens the validation split has, if only a part of them is evaluated."""
    validation = record["data"]["validation"]
    total, evaluated = validation["tokens"], validation.get("evaluated_tokens", validation["tokens"])
    return f" (--max_eval_tokens; the validation texts have {total:,})" if evaluated < total else ""


def _figures(record: dict[str, Any]) -> list[tuple[str, str]]:
    parameters, memory, speed = record["parameters"], record["memory"], record["speed"]
    percent = 100 * parameters["trainable"] / max(parameters["total"], 1)
    return [
        ("trainable parameters", f"{parameters['trainable']:,} ({percent:.2f} %)"),
        ("all parameters", f"{parameters['total']:,}"),
        ("weights", megabytes(memory["weights"])),
        ("gradients", megabytes(memory["gradients"])),
        ("optimizer state", megabytes(memory["optimizer"])),
        ("peak memory", megabytes(memory["peak"])),
        ("tokens per second", f"{speed['tokens_per_second']:,.0f}"),
        ("steps, time", f"{speed['steps']:,}, {speed['train_seconds']:,.0f} s"),
    ]


def _show_samples(console: Console, samples: dict[str, str]) -> None:
    for when, text in samples.items():
        console.print(f"\n[bold]{when} training[/]")
        console.print(text, highlight=False, markup=False)


def next_command(record: dict[str, Any]) -> str:
    """Return a command to try next."""
    if record["dataset"] == "sample":
        return f"uv run slm-train --train_file your.txt --model_path {record['base'] or 'sample'}   (your own text)"
    other = "baseline" if record["mode"] != "baseline" else "lora"
    return f"run the same command with --mode {other} and another --output_dir, and compare the tables"
