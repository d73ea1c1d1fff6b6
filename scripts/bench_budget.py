"""Real tokens a second, and tokens a step: the token-budget loop beside fixed micro-batches, padded or packed.

    uv run python scripts/bench_budget.py --varied
    uv run --with trl python scripts/bench_budget.py --varied --mode baseline

A model of distilgpt2's shape with random weights, the same texts, threads and precision for all:
  loop            slm-train dynamic, a document a row
  loop, packed    slm-train dynamic --packing best_fit
  trainer flow    slm-train --packing none, rows in random order: fixed micro-batches padded to their longest
  plain Trainer   Hugging Face's, likewise, on documents cut off at the block: the rest is not trained on
  TRL             SFTTrainer, packing bfd, no activation checkpointing; left out where trl is not installed
Those of slm-train have its one-kernel GELU and its fused loss, the others what they bring. Accumulation is such that
all steps hold about the budget. Every contender runs once in each round, in an order drawn anew, on the order of
documents that the round seeds; ratios are taken within a round. Counted are tokens with a loss, over all steps but
the first of a run; nobody writes a checkpoint. `tokens a step` are those of all full steps of the rounds' epochs,
planned or collated but not trained, and their coefficient of variation.

``--small`` takes a tiny shape and little text, to see that all works. The built-in sample is of stories that are
nearly of one length; ``--varied`` cuts each text to a share of its words, drawn from 5 to 100 per cent.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec

from budget_runs import (
    FLOW,
    PLAIN,
    TRL,
    Outcome,
    loop,
    packed_loop,
    plain_trainer,
    trainer_flow,
    trl_trainer,
)
from budget_setting import Setting, begin, keep, ratios, spread

CONTENDERS: dict[str, Callable[[Setting, str, int], Outcome]] = {
    "loop": loop,
    "loop, packed": packed_loop,
    FLOW: trainer_flow,
    PLAIN: plain_trainer,
    TRL: trl_trainer,
}


def compare(setting: Setting) -> dict[str, list[Outcome]]:
    names = [name for name in CONTENDERS if name != TRL or find_spec("trl")]
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    for seed in range(setting.options.rounds):
        for name in random.sample(names, len(names)):
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(CONTENDERS[name](setting, folder, seed))
    return found


def show(found: dict[str, list[Outcome]]) -> None:
    speeds = {name: [one.speed for one in outcomes] for name, outcomes in found.items()}
    peers = [name for name in (FLOW, PLAIN, TRL) if name in found]
    print(f"{'':15}{'real tokens/s':>24}{'tokens a step':>16}" + "".join(f"{'/ ' + peer:>23}" for peer in peers))
    for name, outcomes in found.items():
        steps = [tokens for one in outcomes for tokens in one.step_tokens]
        mean = statistics.mean(steps)
        line = f"{name:15}{spread(speeds[name], ',.0f'):>24}{mean:8,.0f} ±{statistics.pstdev(steps) / mean:5.1%}"
        print(line + "".join(f"{spread(ratios(speeds[name], speeds[peer]), '.2f'):>23}" for peer in peers))
    if TRL not in found:
        print("TRL is left out: trl is not installed (uv run --with trl python ...)")


def main() -> None:
    setting = begin(__doc__)
    found = compare(setting)
    show(found)
    keep(setting, {name: [asdict(one) for one in outcomes] for name, outcomes in found.items()})


if __name__ == "__main__":
    main()
