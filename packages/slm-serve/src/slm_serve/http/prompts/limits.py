"""How long prompts and answers can be under /v1: what is clamped, rejected and cut off."""

from __future__ import annotations

from dataclasses import dataclass

from slm_serve.errors import RequestError
from slm_serve.service import Service


@dataclass(frozen=True)
class PromptLimits:
    """Limits of one server.

    Attributes:
        context: Tokens of a prompt and its answer.
        max_prompt: Tokens of the longest prompt that can be continued.
        max_new: The server's limit on new tokens; None if there is none.
        strict: Whether more new tokens than fit are an error.
    """

    context: int
    max_prompt: int
    max_new: int | None
    strict: bool

    @classmethod
    def of(cls, service: Service) -> PromptLimits:
        """Return the limits of a server with a loaded model."""
        backend, settings = service.backend, service.settings
        # The engine need not store the last token; vLLM does.
        longest = backend.context_length - (backend.kind == "vllm")
        max_prompt = min(longest, settings.max_prompt_tokens or longest)
        return cls(backend.context_length, max_prompt, settings.max_new_tokens, settings.strict)

    def check_prompt(self, tokens: int, param: str) -> None:
        """Raise RequestError 400 for a prompt that does not fit.

        The wording is OpenAI's: clients such as LangChain and litellm recognise it, and some read the numbers.
        """
        if tokens <= self.max_prompt:
            return
        limit = f"This model's maximum context length is {self.context} tokens"
        if self.max_prompt < self.context - 1:
            limit += f", and this server takes prompts of at most {self.max_prompt}"
        raise RequestError(
            400,
            f"{limit}. However, your {param} resulted in {tokens} tokens. Please reduce the length of the {param}.",
            param=param,
            code="context_length_exceeded",
        )

    def new_tokens(self, requested: int | None, prompt_tokens: int) -> int:
        """Return how many tokens to generate: what was requested, or what fits if that is less."""
        fitting = min(max(self.context - prompt_tokens, 1), self.max_new or self.context)
        if requested is None:
            return fitting
        # The last token of an answer is never read, so one more than the context can fit.
        return requested if self.strict or requested <= fitting or self._fits(requested, prompt_tokens) else fitting

    def _fits(self, requested: int, prompt_tokens: int) -> bool:
        return requested <= (self.max_new or requested) and requested <= self.max_prompt - prompt_tokens + 1

    def truncated_prompt(self, requested: int | None) -> int:
        """Return the length of a prompt that leaves room for an answer: what was requested, at most half the context.

        Without a request a quarter of the context is left.
        """
        room = self.context // 4 if requested is None else min(requested, self.context // 2)
        return max(min(self.max_prompt, self.context - room), 1)
