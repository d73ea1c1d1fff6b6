"""The spelling of flags, and the message for a flag that does not exist."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

from slm_train.errors import UsageError

_PLAIN_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")  # argparse reads these as values, but -1e-3 as a flag
_LOWEST_SIMILARITY = 0.81  # difflib's ratio; names less similar are suggested only if nothing else matches


def plain_name(name: str) -> str:
    """Return the name of a flag as Python spells it: without leading dashes, with underscores."""
    return name.lstrip("-").replace("-", "_")


def reads_as_flag(value: str) -> bool:
    """Return whether argparse would read ``value`` as a flag, so that it has to be written ``--flag=value``."""
    return value.startswith("-") and value != "-" and not _PLAIN_NEGATIVE.fullmatch(value)


def unknown_flag(flag: str, known: Collection[str]) -> UsageError:
    """Return the error for an unknown flag, with suggestions: up to three known flags with similar names."""
    name, names = plain_name(flag).lower(), sorted({plain_name(name) for name in known})
    containing = [candidate for candidate in names if len(name) > 2 and name in candidate]
    containing = [candidate for candidate in containing if candidate.startswith(name)] or containing
    similar = get_close_matches(name, names, n=3, cutoff=_LOWEST_SIMILARITY)
    candidates = list(dict.fromkeys([*similar, *containing]))[:3] or get_close_matches(name, names, n=1)
    question = " or ".join(f"--{candidate}" for candidate in candidates)
    hint = f"did you mean {question}?" if question else "slm-train --help lists the flags"
    return UsageError(f"unknown flag --{flag.lstrip('-')}; {hint}")
