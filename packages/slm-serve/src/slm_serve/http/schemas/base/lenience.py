"""Fields that clients send and this server does not have: ignored and listed, or refused by name.

A field that cannot change the text is ignored, and so is a null and a value that asks for nothing. A field that is
known to change the answer is refused, because the answer would silently be another one than was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

from pydantic import ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from slm_serve.http.schemas.base.fields import StrictModel

UNSUPPORTED = "unsupported_field"  # type of the error; its context has the name of the field


@dataclass
class Reading:
    """How a body is validated, given as the context of the validation, and which of its fields were ignored.

    Attributes:
        strict: Whether unknown fields and nulls are errors.
        ignored: Names of ignored fields, such as ``metadata`` and ``messages.cache_control``, in order.
    """

    strict: bool
    ignored: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class Unsupported:
    """A field that would change the answer.

    Attributes:
        remedy: What to do instead.
        neutral: Values that ask for nothing, besides null.
    """

    remedy: str
    neutral: tuple[Any, ...] = ([], {}, "", False)

    def asks_for_nothing(self, value: Any) -> bool:
        """Whether the field can be left out. True and 1 are different values in JSON, 1 and 1.0 are not."""
        return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.neutral)


def refused(remedy: str, *neutral: Any) -> Unsupported:
    """Return a field that is refused unless it is empty, false or one of the ``neutral`` values."""
    return Unsupported(remedy, (*neutral, *Unsupported.neutral))


def unsupported_error(name: str, reason: str) -> PydanticCustomError:
    """Return the error of the field ``name`` of the object that is validated."""
    return PydanticCustomError(UNSUPPORTED, "{reason}", {"field": name, "reason": reason})


class LenientModel(StrictModel):
    """An object whose unknown fields are ignored and listed, unless the server is strict or they are refused."""

    refused_fields: ClassVar[Mapping[str, Unsupported]] = {}
    ignored_fields: ClassVar[frozenset[str]] = frozenset()  # fields of the model that have no effect
    place: ClassVar[str] = ""  # where the object is in a body, as a prefix of the names of its fields

    @model_validator(mode="before")
    @classmethod
    def _leave_out_ignored_fields(cls, data: Any, info: ValidationInfo) -> Any:
        reading = info.context
        if not isinstance(data, dict) or not isinstance(reading, Reading) or reading.strict:
            return data
        return {name: value for name, value in data.items() if value is not None and cls._takes(name, value, reading)}

    @classmethod
    def _takes(cls, name: str, value: Any, reading: Reading) -> bool:
        """Whether the field is to be validated. Raises PydanticCustomError for a field that is refused."""
        if name in _names(cls) and name not in cls.ignored_fields:
            return True
        unsupported = cls.refused_fields.get(name)
        if unsupported is None:
            if value not in ([], {}):
                reading.ignored[cls.place + name] = None
        elif not unsupported.asks_for_nothing(value):
            raise unsupported_error(name, f"is not supported; {unsupported.remedy}")
        return False


@cache
def _names(model: type[LenientModel]) -> frozenset[str]:
    """The names of the fields in a body."""
    return frozenset(field.alias or name for name, field in model.model_fields.items())


def is_lenient(info: ValidationInfo) -> bool:
    """Whether a body is read leniently; objects made in Python are not."""
    return isinstance(info.context, Reading) and not info.context.strict


def ignore(info: ValidationInfo, name: str) -> None:
    """List a field that is ignored."""
    if isinstance(info.context, Reading):
        info.context.ignored[name] = None
