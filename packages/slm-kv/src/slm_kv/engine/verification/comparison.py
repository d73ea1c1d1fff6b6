"""One model's logits on pages and by its own forward pass.

Shapes: T tokens of a text, R rows that are compared, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from slm_kv.attention.probe import AttentionProbe
from slm_kv.engine.adapters import Adapters
from slm_kv.engine.prepared_models import PreparedModels
from slm_kv.engine.verification.trial import Trial
from slm_kv.peft_models import base_model, only_adapter

PROMPT, OTHER_PROMPT, STEPS = 11, 6, 2  # tokens of two prompts, and how many follow each
SHORT = PROMPT + STEPS
LAST_ROWS = 7  # compared at the end of a text that is longer than a window
LONGEST_WINDOW = 1024  # in a longer one no text is tried: its mask was recognised
MAX_WINDOW_COST = 1e11  # parameters x tokens on a CPU: about two seconds


@dataclass(frozen=True)
class Subject:
    """What is compared: a model with an adapter.

    Attributes:
        prepared: All models, with paged attention.
        model: One of them.
        adapters: All adapters.
        adapter: One of the model's, or None.
        probe: What the layers require.
        token_ids: Ordinary tokens to make texts of.
        page_size: Tokens in a page.
        positions: The number of positions that a text can have.
    """

    prepared: PreparedModels
    model: PreTrainedModel
    adapters: Adapters
    adapter: str | None
    probe: AttentionProbe
    token_ids: Ids[int]
    page_size: int
    positions: int

    @property
    def name(self) -> str:
        """The model's class, and its adapter if there is one."""
        adapter = "" if self.adapter is None else f" with adapter {self.adapter}"
        return type(base_model(self.model)).__name__ + adapter

    def trial(self, dtype: torch.dtype, tokens: int, texts: int) -> Trial:
        """Pages of ``dtype`` for texts of so many tokens together."""
        return Trial(self.model, self.adapters, replace(self.probe, dtype=dtype), self.page_size, tokens, texts)

    def texts(self, lengths: Ids[int]) -> list[list[int]]:
        """Different texts of these lengths."""
        ids = [self.token_ids[index % len(self.token_ids)] for index in range(sum(lengths))]
        return [ids[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True)]


def compare(subject: Subject, dtype: torch.dtype, *, neighbour: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Run texts on pages of ``dtype``; yield what was compared, and the relative error of each row's logits [R].

    Six forward passes, and seven more if there is a window: one text as a whole, the same one in chunks, and another
    one that joins them together with a token at position ``neighbour``, which must not matter to the others.
    """
    long = tokens_past_window(subject)
    lengths = [min(SHORT, subject.positions), min(OTHER_PROMPT + STEPS, subject.positions), 1] + [long] * bool(long)
    texts = subject.texts(lengths)
    trial = subject.trial(dtype, 2 * sum(lengths), 6)
    whole, chunked, beside = (trial.open(texts[index], subject.adapter) for index in (0, 0, 1))
    far = trial.open(texts[2], subject.adapter, position=neighbour)
    run, text = trial.run, own_logits(subject, texts[0])
    prompt, first = len(text) - STEPS, (len(text) - STEPS) // 2
    rows = run((whole, prompt), (chunked, first))
    yield "a prompt in one piece", relative_errors(rows[:1], [text[:prompt]])
    yield "two prompts in one step", relative_errors(rows[1:], [text[:first]])
    rows = run((chunked, prompt - first), (whole, 1))
    yield "a prompt in chunks", relative_errors(rows[:1], [text[first:prompt]])
    yield "a decode step", relative_errors(rows[1:], [text[prompt : prompt + 1]])
    other = own_logits(subject, texts[1])
    rows = run((chunked, 1), (whole, 1), (beside, len(other) - STEPS), (far, 1))
    expected = [text[prompt : prompt + 1], text[prompt + 1 :], other[:-STEPS]]
    yield "several texts in one step", relative_errors(rows[:-1], expected)
    rows = run((chunked, 1), (beside, 1))
    yield "several decode steps", relative_errors(rows, [text[prompt + 1 :], other[-STEPS:-1]])
    if long:
        yield "a text longer than a sliding window", _errors_past_window(subject, trial, texts[3])


def _errors_past_window(subject: Subject, trial: Trial, token_ids: list[int]) -> Tensor:
    """The relative errors of the last rows of two pieces of a prompt, and of decode steps."""
    sequence = trial.open(token_ids, subject.adapter, all_logits=False)
    counts = [len(token_ids) - LAST_ROWS + 1, 3] + [1] * (LAST_ROWS - 4)
    rows = [trial.run((sequence, count))[0] for count in counts]
    return relative_errors(rows, [own_logits(subject, token_ids)[[0, *range(3, LAST_ROWS)]]])


@torch.inference_mode()
def own_logits(subject: Subject, token_ids: list[int]) -> Tensor:
    """The logits of the model's own forward pass: [T, V], of a long text the last LAST_ROWS only."""
    model: Any = subject.model
    takes_rows = "logits_to_keep" in inspect.signature(base_model(model).forward).parameters
    options = {"logits_to_keep": LAST_ROWS} if len(token_ids) > SHORT and takes_rows else {}
    ids = torch.tensor([token_ids], device=subject.probe.device)
    # transformers' sdpa attention leaves out the soft cap with which the model was trained.
    eager = "eager" if subject.probe.softcapped else None
    with subject.prepared.original_attention(eager), only_adapter(model, subject.adapter):
        logits: Tensor = model(ids, use_cache=False, **options).logits[0]
    return logits[-LAST_ROWS:] if len(token_ids) > SHORT else logits


def tokens_past_window(subject: Subject) -> int:
    """The length of a text in which all windows end; 0 if there are none or it would take too long."""
    windows = subject.probe.windows.values()
    window = max((window for window in windows if window is not None and window <= LONGEST_WINDOW), default=0)
    tokens = min(subject.positions, window + LAST_ROWS + 1)
    parameters = sum(parameter.numel() for parameter in subject.model.parameters())
    too_long = subject.probe.device.type == "cpu" and tokens * parameters > MAX_WINDOW_COST
    return 0 if tokens <= window or tokens <= SHORT or too_long else tokens


def relative_errors(logits: Ids[Tensor], expected: Ids[Tensor]) -> Tensor:
    """The distance of each row [V] to the expected one, relative to the spread of the expected one, [R].

    Rows whose expected logits are not all finite are left out: the text of such a model is an error in any case.
    """
    logits_RV, expected_RV = torch.cat(list(logits)).float(), torch.cat(list(expected)).float()
    finite_R = expected_RV.isfinite().all(-1)
    difference_RV = logits_RV[finite_R] - expected_RV[finite_R]
    spread_RV = expected_RV[finite_R] - expected_RV[finite_R].mean(-1, keepdim=True)
    errors_R = difference_RV.norm(dim=-1) / spread_RV.norm(dim=-1).clamp_min(1e-12)
    return errors_R.nan_to_num(torch.inf)
