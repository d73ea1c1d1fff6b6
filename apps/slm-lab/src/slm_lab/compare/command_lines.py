"""Command lines of slm-train: splitting them into flags, and comparing two of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

# Flags that say where and how a run is computed. They do not change its result, and may differ when it is resumed.
IGNORED_FLAGS = {
    "output_dir",
    "overwrite_output_dir",
    "preprocessing_num_workers",
    "resume_from_checkpoint",
    "threads",
    "token_cache",
}

Flag = tuple[str, tuple[str, ...]]  # the name, and the words of the flag including the first


def split_flags(words: Sequence[str]) -> list[Flag]:
    """Split a command line into flags. Names have underscores for dashes; words before the first flag have none."""
    flags: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            flags.append((word.partition("=")[0].removeprefix("--").replace("-", "_"), [word]))
        elif flags:
            flags[-1][1].append(word)
        else:
            flags.append(("", [word]))
    return [(name, tuple(flag_words)) for name, flag_words in flags]


def flag_values(flags: Iterable[Flag]) -> dict[str, str]:
    """Map the names of ``flags`` to their values, whether they follow a space or an equals sign."""
    values = {}
    for name, words in flags:
        after_equals_sign = words[0].partition("=")[2]
        values[name] = " ".join([*([after_equals_sign] if after_equals_sign else []), *words[1:]])
    return values


def describe_difference(before: Sequence[str], now: Sequence[str]) -> str | None:
    """Describe the first difference, as ``--lora_r 4 instead of --lora_r 8``; None if both start the same run."""
    old, new = flag_values(split_flags(before)), flag_values(split_flags(now))
    for name in [*new, *old]:
        if name not in IGNORED_FLAGS and old.get(name) != new.get(name):
            return f"{_flag_text(name, old)} instead of {_flag_text(name, new)}"
    return None


def _flag_text(name: str, values: Mapping[str, str]) -> str:
    flag = f"--{name}" if name else "arguments"
    return f"{flag} {values[name]}".rstrip() if name in values else f"no {flag}"


def command_json(argv: Sequence[str], label: str) -> str:
    """Return the content of lab.json, which records the command line of a run and the name of its variant."""
    return json.dumps({"label": label, "argv": list(argv)}, indent=1) + "\n"
