"""``Encoder``: from examples to token ids and the mask of those that have a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from slm_data.examples.rendering import Range, Rendered, render_pair
from slm_data.examples.types import Conversation, Example, Pair
from slm_data.tokens.literal import SpecialTexts
from slm_data.tokens.settings import EncodingSettings, literal_tokenizer, offset_tokenizer

Bools = npt.NDArray[np.bool_]


class EncodedBatch(NamedTuple):
    """Several documents, concatenated.

    Attributes:
        ids: ``[tokens]``.
        lengths: Tokens of each document, ``[documents]``.
        scored: Whether a token has a loss, ``[tokens]``; None if all have.
        text_bytes: UTF-8 bytes of the text that has a loss.
        unscored: Examples that were left out, because nothing in them has a loss.
        special_texts: Special tokens that are written in the texts and were read as plain text.
    """

    ids: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.int64]
    scored: Bools | None
    text_bytes: int
    unscored: int = 0
    special_texts: int = 0


def join_batches(parts: Sequence[EncodedBatch]) -> EncodedBatch:
    """Concatenate batches, at least one, of the same encoding."""
    masks = [part.scored for part in parts if part.scored is not None]
    return EncodedBatch(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate(masks) if masks else None,
        sum(part.text_bytes for part in parts),
        sum(part.unscored for part in parts),
        sum(part.special_texts for part in parts),
    )


@dataclass(frozen=True)
class _Input:
    """What is given to a tokenizer: text, and the ranges that have a loss, with special tokens renamed if need be."""

    rendered: Rendered
    text: str
    ranges: tuple[Range, ...]
    special_texts: int

    @property
    def group(self) -> tuple[bool, bool]:
        return self.special_texts > 0, self.rendered.adds_special_tokens


class Encoder:
    """Encodes examples with a tokenizer of its own."""

    def __init__(self, settings: EncodingSettings):
        self.settings = settings
        self._special = SpecialTexts(settings.special_tokens)

    def __call__(self, examples: Sequence[Example]) -> EncodedBatch:
        if self.settings.chat is None:
            return self._encode_texts([example for example in examples if isinstance(example, str)])
        return self._encode_rendered(examples)

    def _encode_texts(self, texts: list[str]) -> EncodedBatch:
        backend, written = self._tokenizer, 0
        if not self.settings.parses_special_tokens and (written := sum(map(self._special.count, texts))):
            backend, _ = self._literal
        ids = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
        for document in ids:
            if not document or document[-1] != self.settings.eos_id:
                document.append(self.settings.eos_id)
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.uint32, int(lengths.sum()))
        return EncodedBatch(flat, lengths, None, sum(len(text.encode()) for text in texts), special_texts=written)

    def _encode_rendered(self, examples: Sequence[Example]) -> EncodedBatch:
        inputs = [prepared for example in examples if (prepared := self._prepare(example))]
        encodings = self._encode_together(inputs)
        documents = [self._with_end(each, encoding) for each, encoding in zip(inputs, encodings, strict=True)]
        kept = [index for index, (_, scored) in enumerate(documents) if scored.any() or not self.settings.masks]
        ids, masks = [documents[index][0] for index in kept], [documents[index][1] for index in kept]
        return EncodedBatch(
            np.concatenate([np.zeros(0, np.uint32), *ids]),
            np.fromiter(map(len, ids), np.int64, len(ids)),
            np.concatenate([np.zeros(0, np.bool_), *masks]) if self.settings.masks else None,
            sum(_scored_bytes(inputs[index].rendered, masks=self.settings.masks) for index in kept),
            len(examples) - len(kept),
            sum(inputs[index].special_texts for index in kept),
        )

    def _prepare(self, example: Example) -> _Input | None:
        """Render an example; None if nothing in it has a loss."""
        count = self._written_special_tokens(example)
        rendered = self._render(example, finds_literal=count > 0)
        if rendered is None:
            return None
        text, ranges = rendered.text, rendered.scored
        if count and rendered.literal is not None:
            text, ranges = self._special.rename(text, rendered.literal, ranges, self._literal[1])
        return _Input(rendered, text, ranges, count)

    def _render(self, example: Example, *, finds_literal: bool) -> Rendered | None:
        """Return one text; None if nothing in it has a loss."""
        if isinstance(example, Pair):
            return render_pair(example) if example.completion.strip() or not self.settings.masks else None
        if isinstance(example, Conversation):
            has_completion = any(message.is_learned for message in example.messages)
            if not example.messages or (self.settings.masks and not has_completion):
                return None
            assert self.settings.chat
            return self.settings.chat(example, finds_literal=finds_literal)
        return Rendered(example, ((0, len(example)),))

    def _encode_together(self, inputs: Sequence[_Input]) -> list[Encoding]:
        """Encode in groups that need the same tokenizer and the same call, which the tokenizer does in threads."""
        encodings: dict[int, Encoding] = {}
        for group in {each.group for each in inputs}:
            members = [index for index, each in enumerate(inputs) if each.group == group]
            is_literal, adds_special_tokens = group
            backend = self._literal[0] if is_literal else self._offsets
            texts = [inputs[index].text for index in members]
            encoded = backend.encode_batch(texts, add_special_tokens=adds_special_tokens)
            encodings |= dict(zip(members, encoded, strict=True))
        return [encodings[index] for index in range(len(inputs))]

    def _with_end(self, each: _Input, encoding: Encoding) -> tuple[npt.NDArray[np.uint32], Bools]:
        """Return ids ``[tokens]`` and their mask, with an end-of-text token where the text needs one."""
        ids, rendered = np.array(encoding.ids, np.uint32), each.rendered
        scored = _scored_tokens(ids, encoding.offsets, each.ranges, self.settings.end_of_turn_id)
        if not rendered.is_open:
            return ids, scored
        if not len(ids) or ids[-1] != self.settings.eos_id:
            return np.append(ids, np.uint32(self.settings.eos_id)), np.append(scored, rendered.scores_end)
        scored[-1] = rendered.scores_end
        return ids, scored

    def _written_special_tokens(self, example: Example) -> int:
        """Return how many special tokens are written in an example that are to be read as plain text."""
        if self.settings.parses_special_tokens:
            return 0
        if isinstance(example, Conversation):
            return sum(self._special.count(message.content) for message in example.messages)
        texts = (example.prompt + example.completion,) if isinstance(example, Pair) else (example,)
        return sum(map(self._special.count, texts))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_str(self.settings.tokenizer)

    @cached_property
    def _offsets(self) -> Tokenizer:
        return offset_tokenizer(self.settings)

    @cached_property
    def _literal(self) -> tuple[Tokenizer, dict[str, str]]:
        return literal_tokenizer(self.settings)


def _scored_tokens(
    ids: npt.NDArray[np.uint32], offsets: Sequence[Range], ranges: Sequence[Range], end_of_turn_id: int | None
) -> Bools:
    """Return which tokens lie within the ranges; one that begins before or ends after its range does not."""
    bounds = np.fromiter(chain.from_iterable(offsets), np.int64, 2 * len(offsets))  # much faster than np.array
    start, end = bounds[::2], bounds[1::2]
    # The offsets of an end-of-turn token may include the newline after it.
    is_end_of_turn = ids == (-1 if end_of_turn_id is None else end_of_turn_id)
    scored = np.zeros(len(offsets), np.bool_)
    for first, last in ranges:
        is_within = (end <= last) | (is_end_of_turn & (start < last))
        scored |= (start >= first) & is_within & (end > start)
    return scored


def _scored_bytes(rendered: Rendered, *, masks: bool) -> int:
    if not masks:
        return len(rendered.text.encode())
    return sum(len(rendered.text[start:end].encode()) for start, end in rendered.scored)
