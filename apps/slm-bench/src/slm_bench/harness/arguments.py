"""Flags that several commands share, and types of flag values. Imports no torch: ``--help`` responds at once."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from slm_kv import DefaultsHelpFormatter, positive_int

SAMPLE = "sample"  # the built-in base model or tokenizer
HARBOUR = "harbour"  # the built-in corpus that the base finds hard
DISTILGPT2_SHAPE = "distilgpt2's shape, random weights"

Settings = TypeVar("Settings")

_SHARED: dict[str, dict[str, Any]] = {
    "model_path": {"help": "a folder, a model name on the hub, or sample: the built-in base model"},
    "dtype": {"choices": ("float32", "bfloat16", "float16"), "default": "float32", "help": "of weights, keys, values"},
    "device": {"help": "cpu or cuda; default: cuda if available"},
    "threads": {"type": positive_int, "help": "number of CPU threads; default: PyTorch's choice"},
    "bf16": {"action": "store_true", "help": "train in bfloat16 autocast"},
    "rounds": {"type": positive_int, "help": "timed rounds of each contender"},
    "vllm_python": {
        "metavar": "FILE",
        "help": "Python interpreter of an environment with vLLM; default: this interpreter, if vLLM is installed",
    },
    "llama_python": {
        "metavar": "FILE",
        "help": "Python interpreter of an environment with llama-cpp-python; default: this one, if it is installed",
    },
    "json": {"metavar": "FILE", "help": "write the figures with every sample to this file"},
    "plot": {"metavar": "FILE", "help": "write the plot to FILE.png and FILE.svg"},
}


class Command(argparse.ArgumentParser):
    """A parser of ``slm-bench``; its subparsers are of this class as well."""

    def flag(self, name: str, **options: Any) -> None:
        """Add ``--name``. ``options`` override those of the shared flag of that name, if there is one."""
        self.add_argument(f"--{name}", **_SHARED.get(name, {}) | options)

    def only(self, choices: Sequence[str], default: str = "all") -> None:
        """Add ``--only NAME,...``, whose value is a tuple of names from ``choices`` in their order."""
        help = f"run only these of {','.join(choices)}; default: {default}"
        self.add_argument("--only", type=names_from(choices), metavar="NAME,...", help=help)


def new_command(commands: Any, name: str, **texts: str) -> Command:
    """Add a command to the result of ``add_subparsers``. ``texts`` are its ``help`` and ``description``."""
    parser: Command = commands.add_parser(name, formatter_class=DefaultsHelpFormatter, **texts)
    return parser


def settings_from(settings_class: type[Settings], arguments: argparse.Namespace, **values: Any) -> Settings:
    """Return a settings dataclass from the flags of the same names; ``values`` are used where a flag is not set."""
    dataclass: Any = settings_class
    flags: dict[str, Any] = {field.name: getattr(arguments, field.name, None) for field in fields(dataclass)}
    return settings_class(**flags | {name: flags[name] or value for name, value in values.items() if name in flags})


def names_from(choices: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return the type of a flag that takes names from ``choices``, separated by commas."""

    def names(text: str) -> tuple[str, ...]:
        requested = [part.strip() for part in text.split(",")]
        unknown = [name for name in requested if name not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(choices)}")
        return tuple(name for name in choices if name in requested)

    return names
