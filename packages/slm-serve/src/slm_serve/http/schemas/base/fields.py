"""Field types that several request bodies share, and their strict base class."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from slm_kv import MAX_LOGPROBS

MAX_FIELDS = 100  # of an object; each unknown one would be an error
MAX_STOPS = 16
MAX_CHOICES = 128  # texts of one request: prompts times n
INT32_LIMIT, INT64_LIMIT = 2**31, 2**63


class StrictModel(BaseModel):
    """Rejects unknown fields, numbers sent as strings, and NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_count(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", f"has more than {MAX_FIELDS} fields; send fewer")
        return data


def _check_encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("contains half of a surrogate pair, which is not a character") from error
    return text


def _integral_to_int(number: Any) -> Any:
    """Convert 64.0 to 64: JSON does not distinguish them, but pydantic's strict mode does."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _integral_items_to_int(numbers: Any) -> Any:
    """Convert the items of a list, which may be long, so that there is no validator for each."""
    if isinstance(numbers, list) and any(isinstance(number, float) for number in numbers):
        return [_integral_to_int(number) for number in numbers]
    return numbers


Integer = Annotated[int, BeforeValidator(_integral_to_int)]
Text = Annotated[str, AfterValidator(_check_encodable)]
StopText = Annotated[Text, Field(min_length=1, max_length=1000)]
TokenId = Annotated[int, Field(ge=0, lt=INT32_LIMIT)]
# fail_fast: without it there would be an error for each of possibly hundreds of thousands of items.
TokenIds = Annotated[list[TokenId], Field(fail_fast=True), BeforeValidator(_integral_items_to_int)]
PromptIds = Annotated[TokenIds, Field(min_length=1)]
NewTokens = Annotated[Integer, Field(ge=1, lt=INT32_LIMIT)]
Seed = Annotated[Integer, Field(ge=-INT64_LIMIT, lt=INT64_LIMIT)] | None
Temperature = Annotated[float, Field(ge=0, le=1000, description="0 always takes the most likely token")]
TopP = Annotated[float, Field(gt=0, le=1)]
MinP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=1000, description="as in transformers; 1 turns it off")]
Logprobs = Annotated[Integer, Field(ge=0, le=MAX_LOGPROBS)]

# The tags of unions: errors are then about the type that was meant, and their locations leave the tags out.
TEXT_TAG, LIST_TAG = "<text>", "<list>"


def text_or_list(value: Any) -> str:
    """Return the tag of a value that may be a text or a list."""
    return LIST_TAG if isinstance(value, list | tuple) else TEXT_TAG


def prompt_tag(value: Any) -> str:
    """Return the tag of the kind of prompts, by the first of several."""
    if not isinstance(value, list):
        return "<text>"
    if not value or isinstance(value[0], str):
        return "<texts>"
    return "<many ids>" if isinstance(value[0], list) else "<ids>"


StopTexts = Annotated[list[StopText], Field(max_length=MAX_STOPS, fail_fast=True)]
Stop = (
    Annotated[Annotated[StopText, Tag(TEXT_TAG)] | Annotated[StopTexts, Tag(LIST_TAG)], Discriminator(text_or_list)]
    | None
)


def stop_strings(stop: Any) -> tuple[str, ...]:
    """Return the value of a ``Stop`` field, one string or several, as a tuple."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())
