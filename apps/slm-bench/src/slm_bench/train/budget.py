"""Real tokens a second, and tokens a step: the token-budget loop beside fixed micro-batches, padded or packed.

Those of slm-train have its one-kernel GELU and its fused loss, the others what they bring. Accumulation is such that
all steps hold about the budget. Counted are tokens with a loss, over all steps but the first; nobody writes a
checkpoint. Every way runs once in each round, in alternating order, on the order of documents that the round seeds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from slm_bench.comparison import Comparison, Figure, Row
from slm_bench.train.clock import Outcome
from slm_bench.train.setting import Setting
from slm_bench.train.ways import FLOW, PLAIN, TRL, WAYS
from slm_bench.turns import Ratio, ratio

INSTALL_TRL = "it is not installed; pip install trl, or uv run --with trl slm-bench train"


def measure(setting: Setting) -> tuple[dict[str, list[Outcome]], dict[str, str]]:
    """The runs of each way; and the way that is not installed."""
    left_out = {} if find_spec("trl") else {TRL: INSTALL_TRL}
    names = [name for name in WAYS if name not in left_out]
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    for seed in range(setting.options.rounds):
        for name in names if seed % 2 else names[::-1]:
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(WAYS[name](setting, folder, seed))
            print(f"round {seed + 1}: {name} {found[name][-1].speed:,.0f} tokens/s", file=sys.stderr)
    return found, left_out


def compare(found: Mapping[str, Sequence[Outcome]]) -> Comparison:
    """Speeds over each of the peers, round by round."""
    peers = {"/ plain Trainer": PLAIN, "/ Trainer flow": FLOW, "/ TRL": TRL}
    rows = []
    for name, outcomes in found.items():
        ratios = {
            f"tokens/s {over}": _over(outcomes, found[peer])
            for over, peer in peers.items()
            if peer in found and peer != name
        }
        steps = [tokens for one in outcomes for tokens in one.step_tokens]
        mean = statistics.mean(steps) if steps else 0
        figures: dict[str, Figure] = {
            "real tokens/s": statistics.median(one.speed for one in outcomes),
            "tokens a step": round(mean),
            "vary by": f"{statistics.pstdev(steps) / mean:.1%}" if mean else "",
        }
        rows.append(Row(name, ratios, figures))
    return Comparison("steps of about as many tokens", tuple(rows))


def _over(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> Ratio:
    return ratio([one.speed / other.speed for one, other in zip(ours, theirs, strict=True)])
