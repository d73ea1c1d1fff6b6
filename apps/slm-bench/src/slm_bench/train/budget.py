"""Token budget: predicted tokens per second, and tokens per step, of the loop and its peers.

The peers have fixed micro-batches, padded or packed, of which they accumulate as many as give about the same number of
tokens per step. slm-train's flows use its single-kernel GELU and fused loss, the peers their own. Only tokens with a
loss count, and the first step of a run does not. No contender writes checkpoints. The number of the round is the seed
for the order of documents.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec

from slm_bench.harness.comparison import Comparison, Figure, Row
from slm_bench.harness.interleaved_timing import interleave, paired_ratio
from slm_bench.train.contenders import CONTENDERS, FLOW, PLAIN, TRL
from slm_bench.train.inputs import Inputs
from slm_bench.train.step_timing import Outcome

TRL_MISSING = "it is not installed; pip install trl, or uv run --with trl slm-bench train"
PEERS = {"/ plain Trainer": PLAIN, "/ Trainer flow": FLOW, "/ TRL": TRL}


def measure(inputs: Inputs) -> tuple[dict[str, list[Outcome]], dict[str, str]]:
    """Return the runs of each contender, and the reason why TRL is left out if it is not installed."""
    left_out = {} if find_spec("trl") else {TRL: TRL_MISSING}
    contenders = {name: partial(_run, inputs, name) for name in CONTENDERS if name not in left_out}
    return interleave(contenders, inputs.options.rounds, "budget"), left_out


def _run(inputs: Inputs, name: str, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return CONTENDERS[name](inputs, folder, seed)


def compare(outcomes: Mapping[str, Sequence[Outcome]]) -> Comparison:
    """Return speeds over each of the peers, round by round."""
    speeds = {name: [run.speed for run in runs] for name, runs in outcomes.items()}
    rows = []
    for name, runs in outcomes.items():
        ratios = {
            f"tokens/s {suffix}": paired_ratio(speeds[name], speeds[peer])
            for suffix, peer in PEERS.items()
            if peer in speeds and peer != name
        }
        steps = [tokens for run in runs for tokens in run.step_tokens]
        mean = statistics.mean(steps) if steps else 0
        figures: dict[str, Figure] = {
            "real tokens/s": statistics.median(speeds[name]),
            "tokens a step": round(mean),
            "vary by": f"{statistics.pstdev(steps) / mean:.1%}" if mean else "",
        }
        rows.append(Row(name, ratios, figures))
    return Comparison("steps of about as many tokens", tuple(rows))
