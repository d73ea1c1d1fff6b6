"""Matching by llguidance, which is imported here only."""

from __future__ import annotations

from typing import Self

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark
from numpy.typing import NDArray

from slm_kv.constraints.error_texts import reason
from slm_kv.constraints.grammar import Grammar
from slm_kv.constraints.lark_text import lark_text
from slm_kv.constraints.token_bytes import TokenBytes
from slm_kv.errors import GrammarError

# Where the grammar dictates the text, its tokens are those that the tokenizer splits it into. Without a tokenizer for
# the inside of a text the model chooses.
HEADERS = {True: "%llguidance {}\n", False: '%llguidance {"no_forcing": true}\n'}
END_NAME = b"<|end of the grammar|>"
# An ambiguous grammar took 6 s for a token with llguidance's own limits (50,000 items, 2,000 in a row), and 0.1 s with
# these. Schemas of 50,000 characters stay far below.
_LIMITS = LLParserLimits(verbose_errors=False, step_max_items=10_000, max_items_in_row=1000)


class TokenTable:
    """The tokens of a vocabulary as a trie, which takes 0.3 s for 50,000 tokens."""

    def __init__(self, vocabulary: TokenBytes) -> None:
        self.vocab_size = len(vocabulary.tokens)
        # One id more, after the vocabulary, stands for the end of the text: the model may have none, or several.
        self.tokenizer = LLTokenizer(TokenizerWrapper(_Vocabulary(vocabulary)), n_vocab=self.vocab_size + 1)
        self._header = HEADERS[vocabulary.encoder is not None]

    def compile(self, grammar: Grammar) -> Matcher:
        """Return a matcher at the beginning of ``grammar``. Raises GrammarError."""
        matcher = LLMatcher(self.tokenizer, self._header + _source(grammar), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(reason(grammar.kind, matcher.get_error()))
        return Matcher(matcher, grammar, self.vocab_size)


class _Vocabulary:
    """What TokenizerWrapper reads."""

    def __init__(self, vocabulary: TokenBytes) -> None:
        self.tokens = [*vocabulary.tokens, END_NAME]
        self.special_token_ids = [*vocabulary.special_ids, len(vocabulary.tokens)]
        self.eos_token_id, self.bos_token_id = len(vocabulary.tokens), None
        self._encoder = vocabulary.encoder

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the tokens of a text that a grammar dictates."""
        if self._encoder is None:
            return []
        decoded = text if isinstance(text, str) else text.decode(errors="replace")
        return list(self._encoder.encode(decoded, add_special_tokens=False).ids)


class Matcher:
    """A position in a grammar.

    Args:
        matcher: llguidance's.
        grammar: For messages.
        vocab_size: V.
    """

    def __init__(self, matcher: LLMatcher, grammar: Grammar, vocab_size: int) -> None:
        self._matcher, self._grammar, self._vocab_size = matcher, grammar, vocab_size

    def copy(self) -> Self:
        """Return an independent matcher at the same position."""
        return type(self)(self._matcher.deep_copy(), self._grammar, self._vocab_size)

    def allowed(self) -> tuple[NDArray[np.bool_], bool]:
        """Return which tokens [V] may follow, and whether the text may end here. Raises GrammarError."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed = np.unpackbits(bits, count=self._vocab_size + 1, bitorder="little").view(np.bool_)
        return allowed[:-1], bool(allowed[-1])

    def advance(self, token_id: int) -> None:
        """Take a token. Raises GrammarError."""
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(reason(self._grammar.kind, self._matcher.get_error()))


def _source(grammar: Grammar) -> str:
    """Return the grammar in llguidance's dialect of Lark."""
    try:
        if grammar.kind == "regex":
            return f"start: /{regex_to_lark(grammar.text, '')}/"
        if grammar.kind == "lark" and "::=" in grammar.text:
            return str(any_to_lark(grammar.text))
    except Exception as error:  # the converter of GBNF raises what its parser happens to raise
        raise GrammarError(f"the grammar cannot be read: {error}") from error
    return lark_text(grammar)
