"""The code blocks of a model card, for running them in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

PEFT_HEADING = "# Model Card for Model ID"


def read_card(folder: Path) -> ModelCard:
    """Read the README.md of ``folder`` as the hub's own library does."""
    card: ModelCard = ModelCard.load(folder / "README.md")
    return card


def code_blocks(folder: Path, language: str) -> list[str]:
    """Return the code blocks of a language in the card of ``folder``."""
    tokens = MarkdownIt().parse(read_card(folder).text)
    return [token.content for token in tokens if token.type == "fence" and token.info == language]


def run_python_blocks(folder: Path, base: Path | None = None) -> list[dict[str, Any]]:
    """Execute each block of Python, and return its variables. Call it in ``folder``.

    ``base`` replaces the path that stands for a local base model.
    """
    results = []
    for code in code_blocks(folder, "python"):
        variables: dict[str, Any] = {}
        exec(code.replace(f"path/to/{base.name}", str(base)) if base else code, variables)
        results.append(variables)
    return results
