"""What a client or an operator gets wrong, and what the server cannot do, each in one sentence."""

from __future__ import annotations

from collections.abc import Mapping


class StartError(ValueError):
    """A mistake in the settings: what is wrong, and what to do."""


class ServeError(Exception):
    """An answer that is none: ``status`` of HTTP, one sentence, the parameter that is at fault, headers to send."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers


class ModelFailed(ServeError):
    """The model gave nothing usable, for this request alone."""

    def __init__(self, message: str) -> None:
        super().__init__(500, message, code="model_failed")


class TooLate(ServeError):
    """The deadline of a request passed, or that of a server that is about to stop."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            504, f"not finished after {seconds:g} s; ask for fewer tokens or try again later", code="timeout"
        )
