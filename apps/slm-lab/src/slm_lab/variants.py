"""Variants of a mode, ``MODE:OPTION:OPTION``, such as ``lora:r=4``, ``butterfly:quality`` and ``dora``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from slm_lab.errors import LabError
from slm_lab.modes import BUTTERFLY_MODES, MODES, PEER_MODES


def _integer(text: str) -> str:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise LabError("a positive integer")
    return str(int(text))


def _number(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise LabError("a positive number")
    return f"{value:g}"


def _one_of(*values: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise LabError(f"one of {', '.join(values)}")
        return text

    return parse


@dataclass(frozen=True)
class Option:
    """An option of a variant: the flag of slm-train that it sets, and the parser of its values.

    The parser returns a value as it is written in names. It raises LabError with what it accepts.
    """

    flag: str
    parse: Callable[[str], str]


PRESETS = ("quality", "speed")
_LEARNING_RATE = {"lr": Option("learning_rate", _number)}
_LORA = {"r": Option("lora_r", _integer), "alpha": Option("lora_alpha", _number)}
_BUTTERFLY = {
    "preset": Option("butterfly_preset", _one_of(*PRESETS)),
    "side": Option("butterfly_side", _one_of("input", "output", "both", "auto")),
    "stages": Option("butterfly_stages", _integer),
}
_BLOCK = {"block_size": Option("butterfly_block_size", _integer)}
OPTIONS: dict[str, dict[str, Option]] = {
    "baseline": _LEARNING_RATE,
    "lora": _LORA | _LEARNING_RATE,
    "qlora": _LORA | _LEARNING_RATE,
    "dora": _LORA | _LEARNING_RATE,
    "butterfly": _BUTTERFLY | _LEARNING_RATE,
    "butterfly_block": _BUTTERFLY | _BLOCK | _LEARNING_RATE,
    "oft": {"block_size": Option("oft_block_size", _integer)} | _LEARNING_RATE,
}
NAMES = (*MODES, *PEER_MODES, "dora")  # what a variant may begin with
_DORA_FLAGS = (("use_dora", "true"),)


@dataclass(frozen=True)
class Variant:
    """A mode with options. ``name`` is a mode of slm-train, or ``dora``: LoRA with magnitudes of its own."""

    name: str
    options: tuple[tuple[str, str], ...] = ()  # names and values, in the order of OPTIONS

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Parse ``MODE`` or ``MODE:OPTION:...``; an option is ``NAME=VALUE``, or a preset of a butterfly.

        Raises:
            LabError: For an unknown mode, option or value, with what exists.
        """
        name, *words = (part.strip() for part in text.split(":"))
        if name not in OPTIONS:
            raise LabError(f"{name!r} is not a mode; choose from {', '.join(NAMES)}")
        options = [_parse_option(name, word) for word in words]
        given = [option for option, _ in options]
        if repeated := next((option for option in given if given.count(option) > 1), None):
            raise LabError(f"{text!r} sets {repeated} twice; give it once")
        return cls(name).with_options(dict(options))

    @property
    def mode(self) -> str:
        """The mode of slm-train."""
        return "lora" if self.name == "dora" else self.name

    @property
    def flags(self) -> dict[str, str]:
        """Flags of slm-train, besides ``--mode``, with their values."""
        options = OPTIONS[self.name]
        fixed = dict(_DORA_FLAGS) if self.name == "dora" else {}
        return fixed | {options[name].flag: value for name, value in self.options}

    @property
    def label(self) -> str:
        """The name on the page and in tables, such as ``lora r=4``."""
        return " ".join([self.name, *(_option_text(*option) for option in self.options)])

    @property
    def spelling(self) -> str:
        """The variant as it is written in ``--modes``."""
        return self.label.replace(" ", ":")

    @property
    def folder(self) -> str:
        """The name of its run folder, such as ``lora-r4``."""
        return "-".join([self.name, *(_option_text(*option, "") for option in self.options)])

    def sets(self, option: str) -> bool:
        """Return whether ``option`` was given."""
        return option in dict(self.options)

    def with_options(self, options: Mapping[str, str]) -> Variant:
        """Return the variant with more options."""
        values = dict(self.options) | dict(options)
        return replace(self, options=tuple((name, values[name]) for name in OPTIONS[self.name] if name in values))


def parse_variants(text: str) -> tuple[Variant, ...]:
    """Parse comma-separated variants. Repeated ones count once. Raises LabError as ``Variant.parse`` does."""
    parts = [part for part in text.split(",") if part.strip()]
    if not parts:
        raise LabError(f"{text!r} names no mode; choose from {', '.join(NAMES)}")
    return tuple(dict.fromkeys(map(Variant.parse, parts)))


def _parse_option(name: str, word: str) -> tuple[str, str]:
    options = OPTIONS[name]
    option, equals_sign, value = word.partition("=")
    if not equals_sign and word in PRESETS and name in BUTTERFLY_MODES:
        return "preset", word
    if option not in options:
        known = [f"{other}=" for other in options if other != "preset"]
        presets = PRESETS if name in BUTTERFLY_MODES else ()
        raise LabError(f"{name} has no option {word!r}; it has {', '.join([*presets, *known])}")
    try:
        return option, options[option].parse(value)
    except LabError as accepted:
        raise LabError(f"{name}:{word}: the value of {option} must be {accepted}") from None


def _option_text(option: str, value: str, equals_sign: str = "=") -> str:
    return value if option == "preset" else f"{option}{equals_sign}{value}"
