"""How examples become tokens: tokenizer, chat template, and what has a loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from slm_data.errors import DataError
from slm_data.examples.loss_on import LossOn
from slm_data.examples.rendering import ChatRenderer
from slm_data.examples.templates import PLAIN_TEMPLATE, ChatTemplate, choose_template, end_of_turn


@dataclass(frozen=True)
class EncodingOptions:
    """What ``tokenize`` does with conversations, pairs and special tokens.

    Attributes:
        template: Renders conversations. Default: that of the tokenizer, or the plain one.
        loss_on: ``completion``: what the assistant writes, and completions; ``all``: every token.
        parse_special_tokens: Whether special tokens that are written in a text, such as ``<|endoftext|>``, become
            those tokens. By default they are plain text.
    """

    template: ChatTemplate | None = None
    loss_on: LossOn = "completion"
    parse_special_tokens: bool = False


@dataclass(frozen=True)
class EncodingSettings:
    """Everything that tokens depend on besides the examples. Can be hashed, and sent to worker processes.

    Attributes:
        tokenizer: The tokenizer as JSON.
        eos_id: The end-of-text token.
        special_tokens: The ids of special tokens by their text.
        end_of_turn_id: The token that ends a message of the assistant; None if it is not a single token.
        chat: Renders conversations; None for other data.
        masks: Whether only completions have a loss.
        parses_special_tokens: See EncodingOptions.
    """

    tokenizer: str
    eos_id: int
    special_tokens: Mapping[str, int]
    end_of_turn_id: int | None
    chat: ChatRenderer | None
    masks: bool
    parses_special_tokens: bool

    def fingerprint_parts(self) -> list[Any]:
        """Return what a change of tokens follows from, as JSON values."""
        chat = asdict(self.chat) if self.chat else None
        return [self.tokenizer, self.eos_id, self.masks, self.parses_special_tokens, chat]


def encoding_settings(
    tokenizer: PreTrainedTokenizerBase, options: EncodingOptions, *, data_format: str
) -> EncodingSettings:
    """Return the settings for examples of ``data_format``.

    Raises:
        DataError: The tokenizer has no fast version or no end-of-text token.
    """
    if not tokenizer.is_fast:
        raise DataError(f"the tokenizer {tokenizer.name_or_path!r} has no fast version; choose a model that has one")
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token to separate documents with; "
            "set eos_token in its tokenizer_config.json"
        )
    # A copy: a tokenizer stores the truncation and padding of earlier calls, which must not apply here.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    special = {token.content: id for id, token in backend.get_added_tokens_decoder().items() if token.special}
    is_text = data_format == "text"
    chat = None if is_text else _chat_renderer(tokenizer, options, special)
    return EncodingSettings(
        backend.to_str(),
        int(tokenizer.eos_token_id),
        special,
        special.get(chat.end_of_turn) if chat and chat.end_of_turn else None,
        chat,
        not is_text and options.loss_on == "completion",
        options.parse_special_tokens,
    )


def _chat_renderer(
    tokenizer: PreTrainedTokenizerBase, options: EncodingOptions, special: Mapping[str, int]
) -> ChatRenderer:
    template = options.template or choose_template(None, tokenizer)
    if template.is_plain:
        # Without a start token of its own: the tokenizer adds it, as to any text.
        template = ChatTemplate(template.name, PLAIN_TEMPLATE)
    marker = end_of_turn(template, tokenizer)
    texts = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return ChatRenderer(template, marker, marker in special, texts)


def literal_tokenizer(settings: EncodingSettings) -> tuple[Tokenizer, dict[str, str]]:
    """Return a tokenizer that reads special tokens as plain text, and the names by which it knows them.

    The special tokens are renamed to texts that nobody writes, wherever the tokenizer has them: as added tokens, and in
    the vocabulary of a model that might find them there (Unigram, WordLevel). A template's own special tokens can still
    be given under these names.

    Raises:
        DataError: The tokenizer is of a kind that cannot be changed in this way.
    """
    names = {token: f"\U0010fffd{index}\U0010fffd" for index, token in enumerate(settings.special_tokens)}
    description = json.loads(settings.tokenizer)
    for added in description["added_tokens"]:
        if added["special"]:
            added |= {"content": names[added["content"]], "normalized": False}
    model = description["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): id for piece, id in vocabulary.items()}
    elif vocabulary is not None:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    tokenizer = Tokenizer.from_str(json.dumps(description))
    if any(tokenizer.token_to_id(names[token]) != id for token, id in settings.special_tokens.items()):
        raise DataError(
            "this tokenizer cannot read special tokens as plain text; give --parse_special_tokens, or another tokenizer"
        )
    return tokenizer, names


def offset_tokenizer(settings: EncodingSettings) -> Tokenizer:
    """Return the tokenizer with offsets that include the spaces that belong to a token."""
    description = json.loads(settings.tokenizer)
    _keep_spaces_in_offsets(description.get("post_processor"))
    return Tokenizer.from_str(json.dumps(description))


def _keep_spaces_in_offsets(processor: dict[str, Any] | None) -> None:
    """Switch off ``trim_offsets``, which changes offsets only."""
    if processor is None:
        return
    if "trim_offsets" in processor:
        processor["trim_offsets"] = False
    for part in processor.get("processors", []):
        _keep_spaces_in_offsets(part)
