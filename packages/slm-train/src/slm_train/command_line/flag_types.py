"""A flag of the command line, and the kinds of translation from a legacy flag to a current one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from slm_train.errors import UsageError

TRUE_WORDS = {"true", "yes", "t", "y", "1", "on"}
FALSE_WORDS = {"false", "no", "f", "n", "0", "off"}
# warmup_steps counts steps from 1 on and is a share below 1. A share of 1 becomes this one: rounded up, all steps.
SHARE_OF_ALL_STEPS = "0.9999999999"


@dataclass(frozen=True)
class Flag:
    """A flag and its values. ``original_name`` is the name that the user typed, before any translation."""

    name: str
    values: tuple[str, ...]
    original_name: str

    @property
    def value(self) -> str:
        """The first value, or an empty string."""
        return self.values[0] if self.values else ""

    @property
    def is_on(self) -> bool:
        """The value of a switch, as argparse reads it: without a value it is on. Raises UsageError."""
        value = self.values[0].lower() if self.values else "true"
        if value not in TRUE_WORDS | FALSE_WORDS:
            raise UsageError(f"--{self.original_name} takes true or false, not {self.value!r}")
        return value in TRUE_WORDS


Translation = tuple[Flag | None, str]  # the current flag, or None if nothing replaces it; and the note to print


@dataclass(frozen=True)
class Renamed:
    """The same values under another name."""

    new: str

    def translate(self, old: Flag) -> Translation:
        """Return the flag under its current name."""
        return replace(old, name=self.new), f"--{old.original_name} is now --{self.new}"


@dataclass(frozen=True)
class Share:
    """A share of the run, from 0 to 1, that is now a value below 1 of a flag that counts steps."""

    new: str

    def translate(self, old: Flag) -> Translation:
        """Return the flag that counts steps. Raises UsageError for a value outside 0 to 1."""
        try:
            share = float(old.value)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise UsageError(f"--{old.original_name} takes a share from 0 to 1, not {old.value!r}")
        value = SHARE_OF_ALL_STEPS if share == 1 else old.value
        return replace(old, name=self.new, values=(value,)), f"--{old.original_name} is now --{self.new} {value}"


@dataclass(frozen=True)
class Switch:
    """A switch that is now one value of another flag. Switched off, it is dropped: off is the default."""

    new: str
    value: str

    def translate(self, old: Flag) -> Translation:
        """Return the flag that has the switch as a value."""
        if not old.is_on:
            note = f"--{old.original_name} is ignored: off is the default, and on is now --{self.new} {self.value}"
            return None, note
        new = replace(old, name=self.new, values=(self.value,))
        return new, f"--{old.original_name} is now --{self.new} {self.value}"


@dataclass(frozen=True)
class JsonEntry:
    """A flag that is now an entry in the JSON value of another one, together with ``required_entries``."""

    new: str
    key: str
    is_switch: bool = False
    required_entries: dict[str, str] = field(default_factory=dict)

    def translate(self, old: Flag) -> Translation:
        """Return the flag with a JSON value. Raises UsageError for a missing value."""
        if not self.is_switch and not old.value:
            raise UsageError(f"--{old.original_name} needs a value")
        value = old.is_on if self.is_switch else int(old.value) if old.value.isdecimal() else old.value
        entry = json.dumps({self.key: value, **self.required_entries})
        return replace(old, name=self.new, values=(entry,)), f"--{old.original_name} is now --{self.new} '{entry}'"


@dataclass(frozen=True)
class Removed:
    """A flag without a replacement: ignored, but refused with a value not in ``ignorable`` (None: any value is)."""

    reason: str
    ignorable: frozenset[str] | None = None

    def translate(self, old: Flag) -> Translation:
        """Return no flag, and the reason. Raises UsageError for a value that would change the run."""
        value = old.value.lower() if old.values else "true"
        if self.ignorable is not None and value not in self.ignorable:
            raise UsageError(f"--{' '.join([old.original_name, *old.values])} is not supported: {self.reason}")
        return None, f"--{old.original_name} is ignored: {self.reason}"


LegacyFlag = Renamed | Share | Switch | JsonEntry | Removed
