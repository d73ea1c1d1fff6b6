"""Hints after a run that changed little or became worse, with the flags that help."""

from __future__ import annotations

import math
from typing import Any

_LEAST_IMPROVEMENT = 0.01  # of the loss before training
_FEW_STEPS = 100


def find_hints(record: dict[str, Any]) -> list[str]:
    """Return a sentence if a finished run, of which ``record`` is the run.json, had little effect or did harm."""
    before, after = (record["evaluation"][when]["loss"] for when in ("before", "after"))
    if after > before:
        return [f"The evaluation loss rose from {before:.4f} to {after:.4f}; {_lower(record)}."]
    effects = []
    if before - after < _LEAST_IMPROVEMENT * before:
        effects.append(f"the evaluation loss fell by only {(before - after) / before:.1%}")
    samples = record["samples"]
    if "before" in samples and samples["before"] == samples.get("after"):
        effects.append("the sample after training is that from before")
    if not effects:
        return []
    text = " and ".join(effects)
    return [f"{text[0].upper()}{text[1:]}; {_more(record)}."]


def _lower(record: dict[str, Any]) -> str:
    rate = record["arguments"]["learning_rate"]
    search = "" if "learning_rate_search" in record else ", or --find_learning_rate"
    return f"give a lower rate, such as --learning_rate {rate / 5:.2g}{search}"


def _more(record: dict[str, Any]) -> str:
    """Return the flags that make this run change more."""
    settings, steps = record["arguments"], record["speed"]["steps"]
    flags = []
    if steps < _FEW_STEPS:
        flags.append(f"training longer than {steps:,} {'step' if steps == 1 else 'steps'} ({_longer(settings)})")
    if "learning_rate_search" not in record:
        flags.append("--find_learning_rate")
    flags.append(f"a higher --learning_rate than {settings['learning_rate']:.2g}")
    return f"try {' or '.join(flags)}" if len(flags) < 3 else f"try {', '.join(flags[:-1])} or {flags[-1]}"


def _longer(settings: dict[str, Any]) -> str:
    if settings.get("max_minutes") is not None:
        return f"--max_minutes {4 * settings['max_minutes']:g}"
    if settings["max_steps"] > 0:
        return f"--max_steps {4 * settings['max_steps']}"
    return f"--num_train_epochs {math.ceil(4 * settings['num_train_epochs'])}"
