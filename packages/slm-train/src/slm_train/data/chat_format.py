"""Choosing the chat template of a run on conversations, and adding its tokens to the vocabulary."""

from __future__ import annotations

from dataclasses import replace

from slm_data import (
    ChatTemplate,
    Conversation,
    Corpus,
    Example,
    choose_template,
    end_of_turn,
    missing_tokens,
    saved_template,
)
from slm_train.arguments import Arguments
from slm_train.data.rows import PrintLine
from slm_train.model.base_model import BaseModel
from slm_train.model.chat_format import ChatFormat


def with_chat_format(arguments: Arguments, base: BaseModel, corpus: Corpus, print_line: PrintLine) -> BaseModel:
    """Return the base with the chat format of a run on conversations, whose template is saved with the tokenizer.

    With ``--resize_embeddings`` the tokens of the template are added to the vocabulary.

    Raises:
        DataError: The template cannot be used.
    """
    flag = arguments.rows.chat_template
    if not _holds_conversations(corpus):
        if flag is not None:
            print_line(f"--chat_template {flag} has no effect: {corpus.name} has no conversations")
        return base
    tokenizer = base.tokenizer
    template = choose_template(flag, tokenizer)
    base = _add_missing_tokens(arguments, base, template, print_line)
    if flag is not None or not tokenizer.chat_template:
        tokenizer.chat_template = saved_template(template, tokenizer)
    marker = end_of_turn(template, tokenizer)
    # Only added tokens are recognised in any text.
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
    marker_id = added.get(marker) if marker else None
    chat = ChatFormat(template, marker, marker_id, tokenizer.eos_token_id, _system(corpus))
    print_line(f"chat template {template.name} (--chat_template); {_end(chat)}")
    return replace(base, chat=chat)


def _end(chat: ChatFormat) -> str:
    """Return what ends an answer, in words."""
    end = chat.end_of_turn
    if end is None:
        return "the end-of-text token ends an answer"
    return (
        f"{end} ends an answer" if chat.end_of_turn_id is not None else f"{end} and the end-of-text token end an answer"
    )


def _system(corpus: Corpus) -> str | None:
    return system_message(next(iter(corpus.validation), None))


def system_message(example: Example | None) -> str | None:
    """Return the system message at the beginning of a conversation."""
    if not isinstance(example, Conversation) or not example.messages or example.messages[0].role != "system":
        return None
    return example.messages[0].content


def _holds_conversations(corpus: Corpus) -> bool:
    # Prompt and completion may be lists of messages, which only an example shows.
    return corpus.train.data_format != "text" and isinstance(next(iter(corpus.train), None), Conversation)


def _add_missing_tokens(
    arguments: Arguments, base: BaseModel, template: ChatTemplate, print_line: PrintLine
) -> BaseModel:
    """Add the tokens of the template to the vocabulary, or say that they are spelled out."""
    missing = missing_tokens(template, base.tokenizer)
    if not missing:
        return base
    names = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
    if not arguments.model.resize_embeddings:
        print_line(f"{names}: not in the vocabulary, so spelled out in several tokens; --resize_embeddings adds them")
        return base
    first = base.vocabulary
    base.tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    print_line(f"{names}: added to the vocabulary; their rows of the embeddings are trained and saved")
    # Another object: its vocabulary is counted again.
    base = replace(base, first_added_token=first)
    if arguments.model.from_scratch:
        base.config.vocab_size = base.vocabulary
    return base
