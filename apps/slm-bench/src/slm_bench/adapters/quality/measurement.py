"""Measures families of methods on one base and one task, each at the parameter counts of LoRA of several ranks."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from slm_bench.adapters.contenders import add_adapter
from slm_bench.adapters.quality.families import LORA, Family
from slm_bench.adapters.quality.run_store import Run, RunStore
from slm_bench.adapters.quality.sizing import Learner, Sizing
from slm_bench.adapters.quality.texts import Texts
from slm_bench.adapters.quality.training import search_rate, train

RATE_WIDTH = 256  # the width of the built-in base, which the families' rates are for; wider models need smaller ones
SEARCH_SEED = 0  # the learning rate is chosen on this seed, which is not counted


@dataclass(frozen=True)
class Learnt:
    """What one method learnt at one parameter count; field names are JSON keys."""

    name: str
    lora_rank: int  # of LoRA with about as many parameters
    trainable: int
    rate: float
    tried: dict[float, float]  # loss by learning rate on the seed that is not counted; empty without a search
    losses: tuple[float, ...]  # on held-out rows, in nats per predicted token, by seed
    own_losses: tuple[float | None, ...]  # on the base's own texts; None if they are not measured


@dataclass
class Study:
    """A base, a task and settings. ``identity`` names everything that all runs depend on, for the store of runs."""

    base: Any
    targets: Sequence[str]
    texts: Texts
    steps: int
    batch_rows: int
    seeds: int
    full: bool  # search learning rates
    bf16: bool
    store: RunStore
    identity: Mapping[str, Any]
    left_out: dict[str, str] = field(default_factory=dict)

    def measure(self, families: Sequence[Family], ranks: Sequence[int]) -> list[Learnt]:
        """Train each family at each rank; what is not comparable there is added to ``left_out``."""
        limits = {rank: self._lora_size(rank) for rank in ranks}
        return [learnt for family in families for learnt in self._measure_family(family, limits)]

    def _lora_size(self, rank: int) -> int:
        return Sizing(self.base, self.targets, LORA).count_of(rank)

    def _measure_family(self, family: Family, limits: Mapping[int, int]) -> list[Learnt]:
        sizing, results = Sizing(self.base, self.targets, family), list[Learnt]()
        rate = family.rate * min(1, RATE_WIDTH / self.base.config.hidden_size)
        for rank, limit in limits.items():
            learner = sizing.learner(limit)
            if learner is None:
                self.left_out[f"{family.name} at the size of LoRA r={rank}"] = sizing.why_not(limit)
                continue
            print(f"quality: {learner.name}, {learner.trainable:,} parameters", file=sys.stderr, flush=True)
            results.append(self._measure(learner, rank, rate))
            rate = results[-1].rate  # the search for the next size begins there
        return results

    def _measure(self, learner: Learner, rank: int, rate: float) -> Learnt:
        rates = (rate / 2, rate, rate * 2)
        tried = search_rate(rates, lambda rate: self._run(learner, rate, SEARCH_SEED).held_out) if self.full else {}
        best = min(tried, key=lambda rate: tried[rate]) if tried else rate
        runs = [self._run(learner, best, seed) for seed in range(SEARCH_SEED + 1, SEARCH_SEED + 1 + self.seeds)]
        losses, own = tuple(run.held_out for run in runs), tuple(run.own for run in runs)
        return Learnt(learner.name, rank, learner.trainable, best, tried, losses, own)

    def _run(self, learner: Learner, rate: float, seed: int) -> Run:
        attach = partial(self.attach, learner)
        texts = replace(self.texts, own=None) if seed == SEARCH_SEED else self.texts
        identity = {**self.identity, "method": learner.name, "trainable": learner.trainable, "rate": rate, "seed": seed}
        settings: dict[str, Any] = {"steps": self.steps, "batch_rows": self.batch_rows, "bf16": self.bf16}
        return self.store.get(identity, lambda: train(attach, texts, rate=rate, seed=seed, **settings))

    def attach(self, learner: Learner, seed: int) -> Any:
        """Return the base with a new adapter of ``learner``, initialised with ``seed``."""
        return add_adapter(self.base, learner.configure, self.targets, seed)
