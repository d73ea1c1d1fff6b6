"""Default prompts of a run on conversations or pairs: what the user of a held-out example asks."""

from __future__ import annotations

from itertools import islice

from slm_data import Conversation, Documents, Example, Pair
from slm_train.data.chat_format import system_message
from slm_train.model.base_model import BaseModel

_PROMPTS = 2
_READ = 200  # held-out examples that are searched for prompts


def example_prompts(base: BaseModel, documents: Documents, limit: int) -> list[str]:
    """Return the prompts of the first two examples whose prompts differ and have at most ``limit`` tokens."""
    prompts: list[str] = []
    for example in islice(iter(documents), _READ):
        prompt = _prompt(base, example)
        if prompt and prompt.strip() and prompt not in prompts and prompt_length(base, prompt) <= limit:
            prompts.append(prompt)
        if len(prompts) == _PROMPTS:
            break
    return prompts


def prompt_length(base: BaseModel, prompt: str) -> int:
    """Return the number of tokens of a prompt, in a chat with everything that precedes the answer."""
    if base.chat:
        return len(base.chat.prompt_ids(base.tokenizer, prompt))
    return len(base.tokenizer(prompt)["input_ids"])


def _prompt(base: BaseModel, example: Example) -> str | None:
    """Return the prompt of a pair, or the first message of the user; None if the samples would begin differently."""
    if isinstance(example, Pair):
        return None if base.chat else example.prompt
    if not isinstance(example, Conversation) or base.chat is None or system_message(example) != base.chat.system:
        return None
    return next((message.content for message in example.messages if message.role == "user"), None)
