"""A question as the tokens that a chat model continues."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from slm_kv.errors import KVError


def chat_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Return the tokens that precede the answer to ``question``.

    Raises:
        KVError: the tokenizer has no chat template, or the template rejects the question.
    """
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        raise KVError("the tokenizer has no chat template; leave out --chat to continue the text")
    messages = [{"role": "user", "content": question}]
    try:
        encoded: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    except (TemplateError, ValueError) as error:  # ValueError: several templates, none of which is the default
        raise KVError(f"the chat template rejects the question: {error}") from error
    return list(encoded["input_ids"])
