"""``slm-lab doctor``: a look at everything, one line each."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slm_lab.doctor.check import Check, Look, State, carefully

COLOURS: dict[State, str] = {"works": "green", "limited": "yellow", "missing": "yellow", "broken": "bold red"}


def examine(given: argparse.Namespace) -> int:
    """Look, and say it. Returns 1 where something is broken that nothing works without."""
    checks = [*looks()]
    if given.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        show(checks, Console(width=None if Console().is_terminal else 110, highlight=False))
    return 1 if any(check.state == "broken" for check in checks) else 0


def looks() -> Iterator[Check]:
    """Everything, the essential first: without torch the rest cannot be asked."""
    from slm_lab.doctor import machine

    yield Check("Python", "works", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield carefully("memory", machine.memory)
    yield carefully("cores", machine.cores)
    yield carefully("disk", lambda: machine.disk(Path("outputs")))
    try:
        further = _with_torch()
    except Exception as trouble:  # an installation can be broken in any way
        what = "torch, transformers, peft or what they need cannot be imported"
        yield Check("libraries", "broken", f"{what}: {trouble}", "uv sync installs them anew")
        return
    for name, look in further.items():
        yield carefully(name, look)


def _with_torch() -> dict[str, Look]:
    from slm_lab.doctor import compute, hub, libraries

    return {
        "versions": libraries.versions,
        "device": compute.device,
        "bfloat16": compute.bf16,
        "instructions": compute.instructions,
        "threads": compute.threads,
        "Triton": compute.kernels,
        "bitsandbytes": libraries.four_bit,
        "vLLM": libraries.vllm,
        "hub": hub.hub,
        "hub cache": hub.hub_cache,
        "token cache": hub.token_cache,
    }


def show(checks: list[Check], console: Console) -> None:
    """A table: what works and what does not, with what to do below it."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in checks:
        advice = f"\n[dim]→ {escape(check.advice)}[/]" if check.advice else ""
        colour = COLOURS[check.state]
        table.add_row(check.name, f"[{colour}]{check.state}[/]", f"{escape(check.found)}{advice}")
    console.print(table)
