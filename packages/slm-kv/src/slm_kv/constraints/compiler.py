"""Compiling grammars for one vocabulary, and keeping the latest ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from slm_kv.constraints.grammar import Grammar
from slm_kv.constraints.token_bytes import token_bytes
from slm_kv.constraints.token_constraint import TokenConstraint
from slm_kv.errors import GrammarError
from slm_kv.optional_imports import import_optional

if TYPE_CHECKING:
    from slm_kv.constraints.matcher import Matcher, TokenTable

MAX_COMPILED = 64


class GrammarCompiler:
    """Compiles grammars on first use. Thread-safe.

    Args:
        tokenizer: None refuses all grammars.
        vocab_size: V.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._table: TokenTable | None = None
        self._table_lock, self._cache_lock = threading.Lock(), threading.Lock()
        self._compiled: OrderedDict[Grammar, Matcher] = OrderedDict()

    def prepare(self) -> None:
        """Build the table of tokens now, unless no grammar is possible."""
        with suppress(GrammarError):
            self._token_table()

    def compile(self, grammar: Grammar) -> Matcher:
        """Return a matcher at the beginning of ``grammar``, which is not to be advanced.

        The first call builds the table of tokens, which takes up to a second; other calls take milliseconds, or
        microseconds for one of the latest grammars.

        Raises:
            GrammarError: the grammar is invalid, not supported or empty, or the tokenizer is not supported.
        """
        with self._cache_lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._compiled[grammar]
        matcher = self._token_table().compile(grammar)
        TokenConstraint(matcher.copy(), (), ())  # raises for an empty grammar
        with self._cache_lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        return matcher

    def start(
        self, grammar: Grammar | None, stop_ids: Collection[int], model_end_ids: Collection[int], ignore_eos: bool
    ) -> TokenConstraint | None:
        """Return the state of a new sequence; None without a grammar.

        Args:
            grammar: The grammar.
            stop_ids: Tokens of the request that end the text.
            model_end_ids: Tokens of the model that end the text.
            ignore_eos: Whether those of the model do not end it.

        Raises:
            GrammarError: see ``compile``.
        """
        if grammar is None:
            return None
        end_ids = {*stop_ids, *(() if ignore_eos else model_end_ids)}
        hidden_ids = set(model_end_ids) - set(stop_ids)
        return TokenConstraint(self.compile(grammar).copy(), self._known(end_ids), self._known(hidden_ids))

    def _known(self, ids: Collection[int]) -> list[int]:
        return [id for id in ids if 0 <= id < self._vocab_size]

    def _token_table(self) -> TokenTable:
        if self._tokenizer is None:
            raise GrammarError("grammars are about text and the engine has no fast tokenizer; give it one")
        module = import_optional("constraints.matcher")
        if module is None:
            raise GrammarError("grammars need llguidance, which is not installed; pip install 'slm-kv[structured]'")
        with self._table_lock:
            if self._table is None:
                self._table = module.TokenTable(token_bytes(self._tokenizer, self._vocab_size))
            return self._table
