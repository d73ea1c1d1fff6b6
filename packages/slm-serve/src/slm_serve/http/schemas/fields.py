"""Field types that several request bodies share, and their strict base class."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from slm_kv import MAX_LOGPROBS

MAX_STOPS = 16
MAX_CHOICES = 128  # texts of one request: prompts times n
INT32_LIMIT, INT64_LIMIT = 2**31, 2**63


class StrictModel(BaseModel):
    """Rejects unknown fields, numbers sent as strings, and NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _check_encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("contains half of a surrogate pair, which is not a character") from error
    return text


def _integral_to_int(number: Any) -> Any:
    """Convert 64.0 to 64: JSON does not distinguish them, but pydantic's strict mode does."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


Integer = Annotated[int, BeforeValidator(_integral_to_int)]
Text = Annotated[str, AfterValidator(_check_encodable)]
StopText = Annotated[Text, Field(min_length=1, max_length=1000)]
Stop = StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None
TokenId = Annotated[Integer, Field(ge=0, lt=INT32_LIMIT)]
NewTokens = Annotated[Integer, Field(ge=1, lt=INT32_LIMIT)]
Seed = Annotated[Integer, Field(ge=-INT64_LIMIT, lt=INT64_LIMIT)] | None
Temperature = Annotated[float, Field(ge=0, le=1000, description="0 always takes the most likely token")]
TopP = Annotated[float, Field(gt=0, le=1)]
MinP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=1000, description="as in transformers; 1 turns it off")]
Logprobs = Annotated[Integer, Field(ge=0, le=MAX_LOGPROBS)]


def stop_strings(stop: Any) -> tuple[str, ...]:
    """Return the value of a ``Stop`` field, one string or several, as a tuple."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())
