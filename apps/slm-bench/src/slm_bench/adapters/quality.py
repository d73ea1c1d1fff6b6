"""What an adapter learns in equal steps, from like many parameters, on texts that its base has not seen.

Every method sees the same rows in the same order for as many AdamW steps, with a linearly falling rate: one that was
found good on the built-in corpus, or the best of a search on the first seed, which goes on by factors of two while
the best lies at its edge.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import BOFTConfig, LoraConfig, OFTConfig
from torch import Tensor, nn

from slm_bench.adapters.contenders import adapted
from slm_bench.adapters.methods import Configure, Method, butterfly, of_peft
from slm_bench.comparison import Comparison, Row
from slm_bench.turns import ratio
from slm_data import Corpus
from slm_train import count_parameters

BATCH, BLOCK = 8, 128
REFERENCE = "LoRA, r=1"


@dataclass(frozen=True)
class Learner:
    """A method, the rate it takes without a search, and whether it is measured without --full."""

    name: str
    configure: Configure
    rate: float
    always: bool = False

    @property
    def rates(self) -> tuple[float, ...]:
        """Where a search begins."""
        return self.rate / 2, self.rate, self.rate * 2


LEARNERS = (
    Learner("PEFT's OFT, blocks of 4", of_peft(OFTConfig, oft_block_size=4), 6e-2, always=True),
    Learner("butterfly_block, 64", butterfly(block_size=64), 6e-2),
    Learner("butterfly", butterfly(), 6e-2, always=True),
    Learner(REFERENCE, of_peft(LoraConfig, r=1, lora_alpha=2), 3e-2, always=True),
    Learner("PEFT's BOFT, blocks of 2", of_peft(BOFTConfig, boft_block_size=2, boft_n_butterfly_factor=1), 3e-2),
    Learner("PEFT's OFT, blocks of 8", of_peft(OFTConfig, oft_block_size=8), 3e-2),
    Learner("LoRA, r=2", of_peft(LoraConfig, r=2, lora_alpha=4), 2e-2),
    Learner("butterfly_block, 64, preset quality", butterfly(block_size=64, preset="quality"), 3e-2, always=True),
    Learner("butterfly, preset quality", butterfly(preset="quality"), 3e-2),
    Learner("LoRA, r=4", of_peft(LoraConfig, r=4, lora_alpha=8), 1e-2, always=True),
    Learner("PEFT's OFT, blocks of 16", of_peft(OFTConfig, oft_block_size=16), 1e-2),
)


@dataclass(frozen=True)
class Texts:
    """Rows ``[rows, BLOCK]`` to train and to evaluate on, and tokens a byte of the latter."""

    train: Tensor
    held_out: Tensor
    tokens_per_byte: float

    def bits_per_byte(self, loss: float) -> float:
        """Of nats a token."""
        return loss * self.tokens_per_byte / math.log(2)


@dataclass(frozen=True)
class Learnt:
    """``tried``: losses by rate on the first seed, where there was a search; ``losses``: nats a token, by seed."""

    name: str
    trainable: int
    rate: float
    tried: dict[float, float]
    losses: tuple[float, ...]


def read(corpus: Corpus, tokenizer: Any, steps: int, eval_rows: int, device: Any) -> Texts:
    """As many rows as ``steps`` need, and ``eval_rows`` held-out ones."""
    train, _ = _rows(corpus.train, tokenizer, steps * BATCH)
    held_out, tokens_per_byte = _rows(corpus.validation, tokenizer, eval_rows)
    return Texts(train.to(device), held_out.to(device), tokens_per_byte)


def _rows(documents: Any, tokenizer: Any, count: int) -> tuple[Tensor, float]:
    ids, size = list[int](), 0
    for text in documents:
        ids += tokenizer(text)["input_ids"]
        size += len(text.encode())
        if len(ids) >= count * BLOCK:
            break
    rows = len(ids) // BLOCK
    return torch.tensor(ids[: rows * BLOCK]).view(rows, BLOCK)[:count], len(ids) / size


@torch.no_grad()
def evaluate(model: Any, held_out: Tensor) -> float:
    """Nats a predicted token."""
    model.eval()
    losses = [
        float(model(input_ids=batch, labels=batch, use_cache=False).loss) * len(batch)
        for batch in held_out.split(BATCH)
    ]
    return sum(losses) / len(held_out)


def train(base: Any, learner: Learner, targets: Sequence[str], texts: Texts, rate: float, *, seed: int) -> float:
    """The held-out loss after one run; infinite where it ends without a number."""
    model = adapted(base, Method(learner.name, learner.configure), targets).train()
    torch.manual_seed(seed)
    order = torch.randperm(len(texts.train)).split(BATCH)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(order))
    for picked in order:
        rows = texts.train[picked]
        model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
    loss = evaluate(model, texts.held_out)
    return loss if math.isfinite(loss) else math.inf


def search(rates: Sequence[float], run: Callable[[float], float]) -> dict[float, float]:
    """Losses by rate: of ``rates``, and beyond them while the best lies at the edge."""
    tried, waiting = dict[float, float](), list(rates)
    while waiting:
        tried |= {rate: run(rate) for rate in waiting}
        best, low, high = min(tried, key=lambda rate: tried[rate]), min(tried), max(tried)
        waiting = [2 * high] if best == high else [low / 2] if best == low else []
    return tried


def measure(
    base: Any, targets: Sequence[str], texts: Texts, *, seeds: int, full: bool
) -> tuple[list[Learnt], dict[str, str]]:
    """Each method on every seed; and those that do not fit the base, with the reason. ``full``: all, after a search."""
    found, left_out = list[Learnt](), dict[str, str]()
    for learner in LEARNERS:
        if not (full or learner.always):
            continue
        print(f"quality: {learner.name}", file=sys.stderr)
        try:
            trainable = count_parameters(adapted(base, Method(learner.name, learner.configure), targets)).trainable
        except ValueError as refused:
            left_out[learner.name] = str(refused)
            continue
        run = partial(train, base, learner, targets, texts)
        tried = search(learner.rates, partial(run, seed=0)) if full else {}
        rate = min(tried, key=lambda one: tried[one]) if tried else learner.rate
        known = [tried[rate]] if tried else []
        losses = [*known, *(run(rate, seed=seed) for seed in range(len(known), seeds))]
        found.append(Learnt(learner.name, trainable, rate, tried, tuple(losses)))
    return found, left_out


def compare(found: Sequence[Learnt], texts: Texts, before: float, title: str) -> Comparison:
    """Perplexities over that of LoRA with one column, seed by seed."""
    reference = next(one for one in found if one.name == REFERENCE)
    rows = [_row("before training", {}, (before,), texts)]
    for one in found:
        ratios = [math.exp(own - other) for own, other in zip(one.losses, reference.losses, strict=True)]
        row = _row(one.name, {"trainable": one.trainable, "rate": f"{one.rate:g}"}, one.losses, texts)
        named = {} if one is reference else {"perplexity / LoRA's": ratio(ratios)}
        rows.append(Row(row.name, named, row.figures))
    return Comparison(title, tuple(rows))


def _row(name: str, more: dict[str, Any], losses: Sequence[float], texts: Texts) -> Row:
    perplexities = sorted(map(math.exp, losses))
    shown = f"{statistics.median(perplexities):.1f}"
    if len(losses) > 1:
        shown += f" ({perplexities[0]:.1f} to {perplexities[-1]:.1f})"
    return Row(name, {}, {**more, "perplexity": shown, "bits/byte": texts.bits_per_byte(statistics.median(losses))})
