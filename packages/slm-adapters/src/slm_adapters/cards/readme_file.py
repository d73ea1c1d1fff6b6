"""Writing README.md to a model's folder, without replacing one that someone else wrote."""

from __future__ import annotations

import os
from pathlib import Path

from slm_adapters.cards.model_card import MARKER, ModelCard

README = "README.md"
# Headings of the card that PEFT writes, which names the path of the base on this machine and nothing of the training.
PEFT_CARD = ("# Model Card for Model ID", "[More Information Needed]")


def has_own_readme(folder: Path) -> bool:
    """Return whether ``folder`` has a README.md that neither this module nor PEFT wrote."""
    path = folder / README
    if not path.exists():
        return False
    content = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return MARKER not in content and not all(part in content for part in PEFT_CARD)


def write_model_card(folder: Path, card: ModelCard) -> bool:
    """Write ``card`` to README.md, atomically. Returns False, with nothing written, if the user has one there."""
    if has_own_readme(folder):
        return False
    temporary = folder / f".{README}.writing"
    temporary.write_text(card.render(), encoding="utf-8")
    os.replace(temporary, folder / README)
    return True


def remove_model_card(folder: Path) -> None:
    """Remove the README.md in ``folder`` unless it is the user's own."""
    if not has_own_readme(folder):
        (folder / README).unlink(missing_ok=True)
