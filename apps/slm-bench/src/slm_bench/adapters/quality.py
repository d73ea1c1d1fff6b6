"""Quality: what an adapter learns in equally many steps on texts that its base model has not seen.

Every method is trained on the same rows in the same order, for the same number of AdamW steps with a linearly decaying
learning rate. The peak rate is fixed (the best one on the corpus `harbour`) or searched: the best rate on the first
seed, where the search continues in factors of two while the best rate lies at its edge.
"""

import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import BOFTConfig, LoraConfig, OFTConfig
from torch import Tensor, nn

from slm_bench.adapters.contenders import add_adapter
from slm_bench.adapters.methods import Configure, butterfly, peft_method
from slm_bench.harness.comparison import Comparison, Figure, Row
from slm_bench.harness.interleaved_timing import spread_of
from slm_data import Corpus
from slm_train import count_parameters

BATCH_ROWS, BLOCK_SIZE = 8, 128
REFERENCE = "LoRA, r=1"


@dataclass(frozen=True)
class Learner:
    """An adapter method to train. ``rate`` is its learning rate without a search; ``always``: even without --full."""

    name: str
    configure: Configure
    rate: float
    always: bool = False


LEARNERS = (
    Learner("PEFT's OFT, blocks of 4", peft_method(OFTConfig, oft_block_size=4), 6e-2, always=True),
    Learner("butterfly_block, 64", butterfly(block_size=64), 6e-2),
    Learner("butterfly", butterfly(), 6e-2, always=True),
    Learner(REFERENCE, peft_method(LoraConfig, r=1, lora_alpha=2), 3e-2, always=True),
    Learner("PEFT's BOFT, blocks of 2", peft_method(BOFTConfig, boft_block_size=2, boft_n_butterfly_factor=1), 3e-2),
    Learner("PEFT's OFT, blocks of 8", peft_method(OFTConfig, oft_block_size=8), 3e-2),
    Learner("LoRA, r=2", peft_method(LoraConfig, r=2, lora_alpha=4), 2e-2),
    Learner("butterfly_block, 64, preset quality", butterfly(block_size=64, preset="quality"), 3e-2, always=True),
    Learner("butterfly, preset quality", butterfly(preset="quality"), 3e-2),
    Learner("LoRA, r=4", peft_method(LoraConfig, r=4, lora_alpha=8), 1e-2, always=True),
    Learner("PEFT's OFT, blocks of 16", peft_method(OFTConfig, oft_block_size=16), 1e-2),
)


@dataclass(frozen=True)
class Texts:
    """Token rows [rows, BLOCK_SIZE] for training and evaluation, and tokens per byte of the held-out texts."""

    train: Tensor
    held_out: Tensor
    tokens_per_byte: float


@dataclass(frozen=True)
class Learnt:
    """What one method learnt; field names are JSON keys."""

    name: str
    trainable: int  # parameters
    rate: float
    tried: dict[float, float]  # loss by learning rate on the first seed; empty without a search
    losses: tuple[float, ...]  # held-out loss in nats per token, by seed


def read_texts(corpus: Corpus, tokenizer: Any, steps: int, eval_rows: int, device: Any) -> Texts:
    """Tokenise training rows for ``steps`` steps, and ``eval_rows`` held-out rows."""
    train, _ = _rows(corpus.train.texts(), tokenizer, steps * BATCH_ROWS)
    held_out, tokens_per_byte = _rows(corpus.validation.texts(), tokenizer, eval_rows)
    return Texts(train.to(device), held_out.to(device), tokens_per_byte)


def _rows(documents: Iterable[str], tokenizer: Any, count: int) -> tuple[Tensor, float]:
    ids, size = list[int](), 0
    for text in documents:
        ids += tokenizer(text)["input_ids"]
        size += len(text.encode())
        if len(ids) >= count * BLOCK_SIZE:
            break
    rows = len(ids) // BLOCK_SIZE
    return torch.tensor(ids[: rows * BLOCK_SIZE]).view(rows, BLOCK_SIZE)[:count], len(ids) / size


@torch.no_grad()
def evaluate(model: Any, held_out: Tensor) -> float:
    """Return the loss in nats per predicted token."""
    model.eval()
    batches = held_out.split(BATCH_ROWS)
    losses = (float(model(input_ids=rows, labels=rows, use_cache=False).loss) * len(rows) for rows in batches)
    return sum(losses) / len(held_out)


def train(base: Any, learner: Learner, targets: Sequence[str], texts: Texts, rate: float, *, seed: int) -> float:
    """Return the held-out loss after one run; infinity if it diverged to NaN."""
    model = add_adapter(base, learner.configure, targets).train()
    torch.manual_seed(seed)
    order = torch.randperm(len(texts.train)).split(BATCH_ROWS)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(order))
    for indices in order:
        rows = texts.train[indices]
        model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    loss = evaluate(model, texts.held_out)
    return loss if math.isfinite(loss) else math.inf


def search_rate(rates: Sequence[float], run: Callable[[float], float]) -> dict[float, float]:
    """Return losses by learning rate: of ``rates``, and beyond them while the best rate lies at the edge."""
    tried, untried = dict[float, float](), list(rates)
    while untried:
        tried |= {rate: run(rate) for rate in untried}
        best, low, high = min(tried, key=lambda rate: tried[rate]), min(tried), max(tried)
        untried = [2 * high] if best == high else [low / 2] if best == low else []
    return tried


def measure(
    base: Any, targets: Sequence[str], texts: Texts, *, seeds: int, full: bool
) -> tuple[list[Learnt], dict[str, str]]:
    """Train each method on every seed; with ``full``, all methods, each after a search for its learning rate.

    Returns:
        What each learnt, and the methods that do not fit the base with the reason.
    """
    learnt, left_out = list[Learnt](), dict[str, str]()
    for learner in LEARNERS:
        if not (full or learner.always):
            continue
        print(f"quality: {learner.name}", file=sys.stderr)
        try:
            trainable = count_parameters(add_adapter(base, learner.configure, targets)).trainable
        except ValueError as error:
            left_out[learner.name] = str(error)
            continue
        run = partial(train, base, learner, targets, texts)
        rates = (learner.rate / 2, learner.rate, learner.rate * 2)
        tried = search_rate(rates, partial(run, seed=0)) if full else {}
        rate = min(tried, key=lambda rate: tried[rate]) if tried else learner.rate
        searched = [tried[rate]] if tried else []  # the search has trained seed 0 with this rate
        losses = (*searched, *(run(rate, seed=seed) for seed in range(len(searched), seeds)))
        learnt.append(Learnt(learner.name, trainable, rate, tried, losses))
    return learnt, left_out


def compare(learnt: Sequence[Learnt], texts: Texts, before: float, title: str) -> Comparison:
    """Return perplexities over those of LoRA of rank 1, seed by seed; ``before``: loss of the base."""
    reference = next(result for result in learnt if result.name == REFERENCE)
    rows = [Row("before training", {}, _figures((before,), texts))]
    for result in learnt:
        ratios = [math.exp(loss - lora_loss) for loss, lora_loss in zip(result.losses, reference.losses, strict=True)]
        figures: Mapping[str, Figure] = {"trainable": result.trainable, "rate": f"{result.rate:g}"}
        named_ratios = {} if result is reference else {"perplexity / LoRA's": spread_of(ratios)}
        rows.append(Row(result.name, named_ratios, {**figures, **_figures(result.losses, texts)}))
    return Comparison(title, tuple(rows))


def _figures(losses: Sequence[float], texts: Texts) -> dict[str, Figure]:
    median, low, high = spread_of([math.exp(loss) for loss in losses])
    perplexity = f"{median:.1f} ({low:.1f} to {high:.1f})" if len(losses) > 1 else f"{median:.1f}"
    bits_per_byte = statistics.median(losses) * texts.tokens_per_byte / math.log(2)
    return {"perplexity": perplexity, "bits/byte": bits_per_byte}
