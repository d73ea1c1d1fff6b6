"""Commands to try after a run, for its own folder."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from slm_data import SourceOptions
from slm_train.arguments import Arguments

# The package that each command is in. slm-adapters is always there: slm-train needs it.
_PACKAGES = {"slm-paged": "slm_kv", "slm-serve": "slm_serve", "slm-lab": "slm_lab"}
_COMPARED = {"baseline": "baseline,lora", "lora": "lora,butterfly"}  # modes to compare, by the mode of the run
_MODEL_FLAGS = ("model_path", "model_revision", "tokenizer_path", "resize_embeddings")
_ROW_FLAGS = ("block_size", "loss_on", "chat_template", "long_rows", "parse_special_tokens")
_CHAT_URL = "http://localhost:8000/v1/chat/completions"  # of slm-serve with its default port


def installed_commands() -> set[str]:
    """Return the commands of other slm packages that are installed."""
    return {command for command, package in _PACKAGES.items() if find_spec(package) is not None}


def command_prefix() -> str:
    """Return ``uv run `` if this process was started by it, or if the commands are not on the PATH."""
    beside = Path(sys.executable).with_name("slm-train")
    found = which("slm-train")
    return "" if "UV" not in os.environ and found and Path(found) == beside else "uv run "


def next_commands(
    arguments: Arguments, record: dict[str, Any], folder: Path, installed: set[str], prefix: str
) -> list[tuple[str, str]]:
    """Return what to do next, and the command for it.

    Args:
        arguments: The options of the run.
        record: The content of its run.json.
        folder: The run folder.
        installed: The commands of other packages that may be named.
        prefix: What each command begins with, such as ``uv run ``.
    """
    commands = [
        (purpose, f"{prefix}{shlex.join([command, *words])}")
        for purpose, command, words in _commands(arguments, record, str(folder))
        if command in installed or command not in _PACKAGES
    ]
    if "chat" in record and "slm-serve" in installed:
        after_serving = 1 + next(index for index, (_, command) in enumerate(commands) if " slm-serve " in f" {command}")
        commands.insert(after_serving, ("ask the server", shlex.join(_chat_request(arguments.run.prompt or []))))
    return commands


def _commands(arguments: Arguments, record: dict[str, Any], folder: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what to do next, the command for it, and the words after the command."""
    prompt = _prompt_flag(arguments.run.prompt or [])
    if "chat" in record:
        yield "ask it", "slm-paged", ["--model_path", folder, "--chat", *prompt, *_stop_flag(record["chat"])]
    else:
        yield "generate text", "slm-paged", ["--model_path", folder, *prompt]
    yield "serve it", "slm-serve", ["--model_path", folder]
    if record["mode"] != "baseline":
        yield "merge into the base", "slm-adapters", ["merge", folder, f"{folder}-merged"]
    if not arguments.model.from_scratch:
        flags = [*_comparison(arguments, record), "--output_dir", f"{folder}-compare"]
        yield "compare modes", "slm-lab", ["compare", *flags]
    if record["dataset"] == "sample":
        own = ["--train_file", "your.txt", "--model_path", str(record["base"] or "sample")]
        yield "train on your own text", "slm-train", own


def _prompt_flag(prompts: Sequence[str]) -> list[str]:
    if not prompts or not prompts[0]:
        return []
    # argparse takes a text that begins with a dash only after an equals sign.
    return [f"--prompt={prompts[0]}"] if prompts[0].startswith("-") else ["--prompt", prompts[0]]


def _stop_flag(chat: dict[str, Any]) -> list[str]:
    """Return the flag for an end-of-turn marker that is not a token; the plain format ends with the end of text."""
    return ["--stop", chat["end_of_turn"]] if chat["end_of_turn"] in chat["stops"] else []


def _chat_request(prompts: Sequence[str]) -> list[str]:
    messages = [{"role": "user", "content": prompts[0] if prompts else "Hello"}]
    body = json.dumps({"messages": messages}, ensure_ascii=False)
    return ["curl", "-s", _CHAT_URL, "-H", "Content-Type: application/json", "-d", body]


def _comparison(arguments: Arguments, record: dict[str, Any]) -> list[str]:
    """Return the flags of a comparison on the data and the model of the run."""
    modes = _COMPARED.get(record["mode"], f"lora,{record['mode']}")
    steps = max(1, int(record["speed"]["steps"]))
    words = ["--modes", modes, "--max_steps", str(steps)]
    for group, names in (
        (arguments.source, [field.name for field in fields(SourceOptions)]),
        (arguments.model, _MODEL_FLAGS),
        (arguments.rows, _ROW_FLAGS),
    ):
        known = {field.name: field for field in fields(group)}
        for name in names:
            value = getattr(group, name)
            if name in arguments.explicit_flags and value != _default(known[name]):
                words += [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return words


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default
