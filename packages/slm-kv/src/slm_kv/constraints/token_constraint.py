"""The tokens that may come next in one sequence.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from slm_kv.errors import GrammarError


class GrammarPosition(Protocol):
    """A position in a grammar, see Matcher."""

    def copy(self) -> Self:
        """Return an independent one at the same position."""

    def allowed(self) -> tuple[NDArray[np.bool_], bool]:
        """Return which tokens [V] may follow, and whether the text may end here."""

    def advance(self, token_id: int) -> None:
        """Take a token."""


class TokenConstraint:
    """The state of one sequence in its grammar.

    Attributes:
        allowed_V: Which tokens may be sampled.
        complete: Whether the text is finished: it may end, and no token may follow.

    Args:
        position: The beginning of the grammar.
        end_ids: Tokens that end the text: allowed where the grammar may end.
        hidden_ids: The model's end-of-text tokens: never allowed as a part of the text.

    Raises:
        GrammarError: the vocabulary cannot write any text of the grammar, or only the empty one is in it.
    """

    def __init__(self, position: GrammarPosition, end_ids: Collection[int], hidden_ids: Collection[int]) -> None:
        self._position, self._ends = position, frozenset(end_ids)
        self._end_ids, self._hidden_ids = np.array(sorted(end_ids), np.int64), np.array(sorted(hidden_ids), np.int64)
        self._update()
        if self.complete:
            raise GrammarError("the grammar allows only the empty text; give one with a text in it")

    def advance(self, token_id: int) -> None:
        """Take a sampled token.

        Raises:
            GrammarError: the grammar is too complex to continue, or no token can continue it.
        """
        if token_id not in self._ends:
            self._position.advance(token_id)
            self._update()

    def _update(self) -> None:
        self.allowed_V, may_end = self._position.allowed()
        self.allowed_V[self._hidden_ids] = False
        may_continue = bool(self.allowed_V.any())
        self.complete = may_end and not may_continue
        if not may_end and not may_continue:
            raise GrammarError("no token of the vocabulary can continue the text by its grammar; change the grammar")
        if may_end:
            self.allowed_V[self._end_ids] = True
