"""Chat templates: choosing one, the plain format, and the text that ends a turn.

A chat template is a Jinja program that renders messages as the text of a conversation (transformers' convention).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_data.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For models that were never trained to chat: each turn is a paragraph that begins with the speaker, and the last
# paragraph of a prompt contains only the speaker. A model writes the space after the colon itself.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ 'User: ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' }}"
    "{% elif message['role'] in ['system', 'developer'] %}{{ 'System: ' }}"
    "{% else %}{{ raise_exception('the plain format has no role ' ~ message['role']) }}{% endif %}"
    "{{ message['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{% if messages %}{{ '\\n\\n' }}{% endif %}{{ 'Assistant:' }}{% endif %}"
)

PLAIN_STOPS = ("\nUser:", "\nSystem:")  # where the next turn of the plain format would begin

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\\n' ~ message['content'] ~ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_START = "{{ bos_token }}"
_QUESTION, _ANSWER = "slmquestion", "slmanswer"  # content of the probes: words that no template contains
_MARKER = re.compile(r"(?<!<)<[^<>\s]+>(?!>)")  # how templates write the tokens that structure a conversation


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template and its name for messages: ``plain``, ``chatml``, a file, or ``of the tokenizer``."""

    name: str
    source: str

    @property
    def is_plain(self) -> bool:
        """Whether this is the plain format, also as it is saved for a tokenizer with a start token."""
        return is_plain_template(self.source)


def is_plain_template(source: str) -> bool:
    """Whether ``source``, the template of a tokenizer, is the plain format."""
    return source.strip().removeprefix(_START) == PLAIN_TEMPLATE


def choose_template(flag: str | None, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    """Return the template of ``--chat_template``: plain, chatml or a file; None for the tokenizer's own, else plain.

    Raises:
        DataError: The file cannot be read, or the template is not one.
    """
    if flag == "plain":
        return ChatTemplate(flag, PLAIN_TEMPLATE)
    if flag == "chatml":
        # A model that was trained with a start token needs it; ChatML itself has none.
        return ChatTemplate(flag, _START + CHATML_TEMPLATE if _adds_start_token(tokenizer) else CHATML_TEMPLATE)
    template = ChatTemplate(flag, _read_file(flag)) if flag is not None else _own_template(tokenizer)
    _check_source(template, tokenizer)
    return template


def saved_template(template: ChatTemplate, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that is stored with the tokenizer.

    Rendered templates are tokenised without special tokens. A text in the plain format is tokenised like any other
    text, so where the tokenizer adds a start token, the stored template has to write it.
    """
    if template.is_plain and not template.source.startswith(_START) and _adds_start_token(tokenizer):
        return _START + template.source
    return template.source


def end_of_turn(template: ChatTemplate, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the text with which the template ends the assistant's turn; None if it ends only with the conversation.

    It is the first special token after the content, else the first ``<marker>``, which the vocabulary may not contain.

    Raises DataError if the template does not render a question and its answer.
    """
    if template.is_plain:
        return None
    end = _probe(template, tokenizer).rpartition(_ANSWER)[2]
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special and str(token) in end]
    if special:
        return min(special, key=lambda token: (end.index(token), -len(token)))
    marker = _MARKER.search(end)
    return marker.group() if marker else None


def missing_tokens(template: ChatTemplate, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the markers of the template, such as ``<|im_start|>``, that are not tokens of the vocabulary.

    Pairs of tags, such as ``<think>`` and ``</think>``, are text, except for the one that ends a turn.

    Raises DataError if the template does not render a question and its answer.
    """
    if template.is_plain:
        return []
    vocabulary, end = tokenizer.get_vocab(), end_of_turn(template, tokenizer)
    markers = list(dict.fromkeys(_MARKER.findall(_probe(template, tokenizer))))
    pairs = {tag for marker in markers for tag in (marker, f"</{marker[1:]}") if f"</{marker[1:]}" in markers}
    return [marker for marker in markers if marker not in vocabulary and (marker == end or marker not in pairs)]


def _probe(template: ChatTemplate, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a rendered conversation, with a system message if the template accepts one."""
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = _render(template, [{"role": "system", "content": _QUESTION}, *turns], tokenizer)
    except DataError:
        text = _render(template, turns, tokenizer)
    if _ANSWER not in text:
        raise DataError(
            f"the chat template {template.name} does not write what the assistant says; give another --chat_template"
        )
    return text


def _render(template: ChatTemplate, messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> str:
    from jinja2.exceptions import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, chat_template=template.source, tokenize=False))
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"the chat template {template.name} does not render a question and its answer ({error}); give another "
            "--chat_template"
        ) from error


def _own_template(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    own: Any = tokenizer.chat_template
    if isinstance(own, dict):
        if "default" not in own and len(own) != 1:
            raise DataError(
                f"the tokenizer has {len(own)} chat templates ({', '.join(own)}) and none is the default; give one "
                "with --chat_template"
            )
        own = own["default"] if "default" in own else next(iter(own.values()))
    # The plain format as it is saved is the plain format: its texts get their start token from the tokenizer.
    if not own or is_plain_template(own):
        return ChatTemplate("plain", PLAIN_TEMPLATE)
    return ChatTemplate("of the tokenizer", own)


def _read_file(flag: str) -> str:
    path = Path(flag).expanduser()
    if not path.is_file():
        raise DataError(f"--chat_template {flag} is not a file; give a Jinja file, chatml or plain")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--chat_template {flag} cannot be read as UTF-8 text ({error}); save it as UTF-8") from error


def _check_source(template: ChatTemplate, tokenizer: PreTrainedTokenizerBase) -> None:
    from jinja2.exceptions import TemplateError, TemplateSyntaxError

    if "messages" not in template.source:
        raise DataError(
            f"the chat template {template.name} never uses 'messages', so it is none; give another --chat_template"
        )
    try:
        question = [{"role": "user", "content": _QUESTION}]
        tokenizer.apply_chat_template(question, chat_template=template.source, tokenize=False)
    except TemplateSyntaxError as error:
        raise DataError(
            f"the chat template {template.name} has an error in line {error.lineno} ({error.message}); repair it, or "
            "give --chat_template chatml or plain"
        ) from error
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError):
        pass  # a template may reject a question without an answer


def _adds_start_token(tokenizer: PreTrainedTokenizerBase) -> bool:
    start = tokenizer.bos_token_id
    return start is not None and tokenizer("")["input_ids"][:1] == [start]
