"""Errors: invalid settings at start-up, and requests that cannot be answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MAX_NAME = 100  # characters of the name of a model that an error shows


class ServeError(ValueError):
    """Base class of all errors of slm-serve: one sentence with the value and the remedy."""


class StartError(ServeError):
    """The server cannot start with these settings."""


class RequestError(ServeError):
    """A request that gets an error response.

    Args:
        status: HTTP status code.
        message: one sentence for the client, without paths or other details of the server.
        param: the invalid parameter of the request, for OpenAI's error body.
        code: machine-readable code, for OpenAI's error body.
        headers: headers of the response.
    """

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

    @property
    def openai_status(self) -> int:
        """The status under /v1. OpenAI's API has no 422: clients expect 400 for an invalid request."""
        return 400 if self.status == 422 else self.status


class AdapterRefusedError(RequestError):
    """An adapter that cannot be loaded: 422, also under /v1."""

    def __init__(self, message: str) -> None:
        super().__init__(422, message, param="lora_path", code="adapter_refused")

    @property
    def openai_status(self) -> int:
        return self.status


class ModelFailedError(RequestError):
    """The model failed on this request; other requests are not affected."""

    def __init__(self, message: str) -> None:
        super().__init__(500, message, code="model_failed")


class DeadlineError(RequestError):
    """The request, or a server that is shutting down, ran out of time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            504, f"not finished after {seconds:g} s; ask for fewer tokens or try again later", code="timeout"
        )


class BackendStoppedError(RequestError):
    """The backend stopped before the request was finished."""

    def __init__(self) -> None:
        super().__init__(503, "the server stopped before this request was finished")


def unknown_model(name: str, available: Iterable[str]) -> RequestError:
    """Return the error for a model that is not served."""
    return RequestError(
        404,
        f"there is no model named {name[:MAX_NAME]!r}; available: {', '.join(available)}",
        param="model",
        code="model_not_found",
    )
