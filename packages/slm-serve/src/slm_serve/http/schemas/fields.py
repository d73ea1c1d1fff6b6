"""What the bodies of requests have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from slm_kv import MAX_LOGPROBS as MOST_LOGPROBS

MOST_STOPS = 16
MOST_CHOICES = 128  # texts of one request, prompts times n
INT64 = 2**63


class Strict(BaseModel):
    """No unknown field, no number that is given as a text, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as broken:
        raise ValueError("holds half of a surrogate pair, which is no character") from broken
    return text


def _whole(number: Any) -> Any:
    """64.0 is a whole number in JSON."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


Whole = Annotated[int, BeforeValidator(_whole)]
Text = Annotated[str, AfterValidator(_encodable)]
StopText = Annotated[Text, Field(min_length=1, max_length=1000)]
Stop = StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None
TokenId = Annotated[Whole, Field(ge=0, lt=2**31)]
NewTokens = Annotated[Whole, Field(ge=1, lt=2**31)]
Seed = Annotated[Whole, Field(ge=-INT64, lt=INT64)] | None
Temperature = Annotated[float, Field(ge=0, le=1000, description="0 takes the likeliest token each time")]
TopP = Annotated[float, Field(gt=0, le=1)]
MinP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=1000, description="Hugging Face's; 1 is none")]
Logprobs = Annotated[Whole, Field(ge=0, le=MOST_LOGPROBS)]


def stops(given: Any) -> tuple[str, ...]:
    """A stop text or several, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given or ())
