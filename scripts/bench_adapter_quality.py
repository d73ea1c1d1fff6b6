"""What an adapter learns in equal steps, for a like number of parameters: PEFT's methods and ours on real text.

    uv run python scripts/bench_adapter_quality.py --dataset wikitext2 --seeds 3

The base is the built-in model (TinyStories), frozen; the target a text it has never seen. Every method sees the same
rows in the same order for the same number of AdamW steps with a linearly falling rate. Each method's rate is the best
of its own grid on seed 0, which goes on by factors of two while the best lies at its edge; then every seed is run with
that rate. Prints perplexity and bits per byte on held-out rows before and after: the median of the seeds, and their
spread. Conv1D becomes nn.Linear, which PEFT's orthogonal methods need.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import BOFTConfig, LoraConfig, OFTConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench_adapters import with_linear  # beside this file
from slm_adapters import ButterflyConfig
from slm_data import SourceOptions, load_corpus, sample_base
from slm_train.accounting import count_parameters

ALL: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": ["c_attn", "c_proj", "c_fc"]}


@dataclass(frozen=True)
class Method:
    """A configuration and the learning rates to choose from."""

    config: Callable[[], Any]
    rates: tuple[float, ...]


def butterfly(**options: Any) -> Method:
    return Method(lambda: ButterflyConfig(**options, **ALL), (1e-2, 3e-2, 6e-2))


def oft(size: int) -> Method:
    return Method(lambda: OFTConfig(oft_block_size=size, **ALL), (3e-3, 1e-2, 3e-2))


def lora(r: int) -> Method:
    return Method(lambda: LoraConfig(r=r, lora_alpha=2 * r, **ALL), (3e-3, 1e-2, 3e-2))


METHODS = {
    "lora r1": lora(1),
    "oft 4": oft(4),
    "oft 8": oft(8),
    "boft b2 m1": Method(lambda: BOFTConfig(boft_block_size=2, boft_n_butterfly_factor=1, **ALL), (3e-3, 1e-2, 3e-2)),
    "butterfly": butterfly(),
    "butterfly_block 64": butterfly(block_size=64),
    "butterfly both": butterfly(side="both"),
    "butterfly both scale": butterfly(side="both", scale=True),
    "butterfly_block 64 both scale": butterfly(block_size=64, side="both", scale=True),
    "lora r2": lora(2),
    "lora r4": lora(4),
    "oft 16": oft(16),
}


def rows(options: argparse.Namespace) -> tuple[Tensor, Tensor, float]:
    """Rows ``[n, block]`` to train on and to evaluate on, and tokens a byte of the latter."""
    tokenizer = AutoTokenizer.from_pretrained(sample_base())
    corpus = load_corpus(SourceOptions(dataset=options.dataset))
    wanted = {"train": options.steps * options.batch, "validation": options.eval_rows}
    found, tokens_per_byte = [], 0.0
    for split, count in wanted.items():
        ids: list[int] = []
        size = 0
        for text in getattr(corpus, split):
            ids += tokenizer(text)["input_ids"]
            size += len(text.encode())
            if len(ids) >= count * options.block:
                break
        tokens_per_byte = len(ids) / size
        n = len(ids) // options.block
        found.append(torch.tensor(ids[: n * options.block]).view(n, options.block)[:count])
    return found[0], found[1], tokens_per_byte


@torch.no_grad()
def evaluate(model: Any, held_out: Tensor) -> float:
    """Nats a predicted token."""
    model.eval()
    losses = [
        float(model(input_ids=batch, labels=batch, use_cache=False).loss) * len(batch) for batch in held_out.split(8)
    ]
    model.train()
    return sum(losses) / len(held_out)


def train(
    method: Method, rate: float, *, seed: int, base: nn.Module, data: Tensor, held_out: Tensor, batch: int
) -> float:
    torch.manual_seed(seed)
    copied: Any = copy.deepcopy(base)
    model = get_peft_model(copied, method.config())
    order = torch.randperm(len(data)).split(batch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(order))
    for picked in order:
        model(input_ids=data[picked], labels=data[picked], use_cache=False).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
    return evaluate(model, held_out)


def search(rates: Sequence[float], known: dict[float, float], run: Callable[[float], float]) -> dict[float, float]:
    """Losses (nats a token) by rate: of ``rates``, of those in ``known``, and beyond them while the best lies at the
    edge. A run that ends without a number counts as the worst."""
    tried = dict(known)
    waiting = [rate for rate in rates if rate not in tried]
    while True:
        found = {rate: run(rate) for rate in waiting}
        tried |= {rate: math.inf if math.isnan(loss) else loss for rate, loss in found.items()}
        best, low, high = min(tried, key=lambda rate: tried[rate]), min(tried), max(tried)
        if low < best < high:
            return tried
        waiting = [2 * high if best == high else low / 2]


def measure(method: Method, earlier: dict[str, Any], options: argparse.Namespace, run: Any) -> dict[str, Any]:
    """``rate``, ``tried`` (losses by rate, seed 0) and ``losses`` by seed; what ``earlier`` has of them is kept."""
    tried = {float(rate): loss for rate, loss in earlier.get("tried", {}).items()}
    if not options.rate:
        tried = search(method.rates, tried, partial(run, seed=0))
    rate = options.rate or min(tried, key=lambda rate: tried[rate])
    losses = list(earlier["losses"]) if earlier.get("rate") == rate else []
    if not losses and rate in tried:
        losses = [tried[rate]]
    losses += [run(rate, seed=seed) for seed in range(len(losses), options.seeds)]
    return {"rate": rate, "tried": tried, "losses": losses}


def carried_on(options: argparse.Namespace) -> dict[str, Any]:
    """The methods of the run in ``--go_on``. Raises SystemExit where it had other settings."""
    if not options.go_on:
        return {}
    earlier = json.loads(Path(options.go_on).read_text())
    for name in ("dataset", "steps", "batch", "block", "eval_rows"):
        if earlier["settings"][name] != getattr(options, name):
            raise SystemExit(f"{options.go_on} had --{name} {earlier['settings'][name]}, not {getattr(options, name)}")
    methods: dict[str, Any] = earlier["methods"]
    return methods


def trainable(method: Method, base: nn.Module) -> int:
    copied: Any = copy.deepcopy(base)
    return count_parameters(get_peft_model(copied, method.config())).trainable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="wikitext2")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--eval_rows", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=METHODS)
    parser.add_argument("--rate", type=float, help="one rate for every method, in place of the search")
    parser.add_argument("--go_on", help="a JSON file of an earlier run with the same settings: what it found is kept")
    parser.add_argument("--json", help="write every sample to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = with_linear(AutoModelForCausalLM.from_pretrained(sample_base(), dtype=torch.float32))
    data, held_out, tokens_per_byte = rows(options)
    before = evaluate(base, held_out)
    known = carried_on(options)
    found: dict[str, Any] = {
        "settings": vars(options),
        "before": before,
        "tokens_per_byte": tokens_per_byte,
        "methods": {},
    }
    bits = tokens_per_byte / math.log(2)
    print(f"{options.dataset}: {held_out.numel():,} held-out tokens, blocks of {options.block}, {options.steps} steps")
    print(
        f"{'before':30}{'':>11}{'':>9}  perplexity {math.exp(before):8.2f}{'':22}  bits/byte {before * bits:.4f}",
        flush=True,
    )
    for name in options.only or METHODS:
        method, start = METHODS[name], time.perf_counter()
        run = partial(train, method, base=base, data=data, held_out=held_out, batch=options.batch)
        measured = measure(method, known.get(name, {}), options, run)
        rate, losses, count = measured["rate"], measured["losses"], trainable(method, base)
        found["methods"][name] = measured | {"trainable": count}
        perplexities = [math.exp(loss) for loss in losses]
        spread = f"({min(perplexities):.2f} to {max(perplexities):.2f})"
        print(
            f"{name:30}{count:11,}{rate:9.0e}  perplexity {statistics.median(perplexities):8.2f} {spread:20}"
            f"  bits/byte {statistics.median(losses) * bits:.4f}  [{time.perf_counter() - start:.0f} s]",
            flush=True,
        )
        if options.json:
            with open(options.json, "w") as out:
                json.dump(found, out, indent=1)


if __name__ == "__main__":
    main()
