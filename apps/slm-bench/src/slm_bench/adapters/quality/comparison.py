"""Tables of what methods learnt: a comparison with LoRA for each parameter count."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from slm_bench.adapters.quality.families import LORA
from slm_bench.adapters.quality.measurement import Learnt
from slm_bench.adapters.quality.run_store import Run
from slm_bench.adapters.quality.texts import Texts
from slm_bench.harness.comparison import Comparison, Figure, Ratios, Row
from slm_bench.harness.interleaved_timing import spread_of

RATIO = "perplexity / LoRA's"
OWN = "own domain, after / before"


def compare(learnt: Sequence[Learnt], texts: Texts, before: Run, title: str) -> Iterator[Comparison]:
    """Yield perplexities over LoRA's, seed by seed, at each parameter count; ``before``: losses of the base."""
    for rank in sorted({result.lora_rank for result in learnt}):
        results = [result for result in learnt if result.lora_rank == rank]
        reference = next(result for result in results if result.name == LORA.label(rank))
        rows = [Row("before training", {}, _figures((before.held_out,), texts))]
        rows += [
            Row(result.name, _ratios(result, reference), _all_figures(result, texts, before)) for result in results
        ]
        yield Comparison(f"{title}, at the size of LoRA r={rank}", tuple(rows))


def _ratios(result: Learnt, reference: Learnt) -> Ratios:
    if result is reference or not all(map(math.isfinite, (*result.losses, *reference.losses))):
        return {}
    pairs = zip(result.losses, reference.losses, strict=True)
    return {RATIO: spread_of([math.exp(loss - lora_loss) for loss, lora_loss in pairs])}


def _all_figures(result: Learnt, texts: Texts, before: Run) -> Mapping[str, Figure]:
    own = [loss for loss in result.own_losses if loss is not None]
    forgotten = {OWN: _spread([math.exp(loss - before.own) for loss in own], 3)} if own and before.own else {}
    sizes: dict[str, Figure] = {"trainable": result.trainable, "rate": f"{result.rate:.3g}"}
    return {**sizes, **_figures(result.losses, texts), **forgotten}


def _figures(losses: Sequence[float], texts: Texts) -> dict[str, Figure]:
    bits_per_byte = statistics.median(losses) * texts.held_out.tokens_per_byte / math.log(2)
    return {"perplexity": _spread([math.exp(min(loss, 700)) for loss in losses], 1), "bits/byte": bits_per_byte}


def _spread(values: Sequence[float], digits: int) -> str:
    median, low, high = spread_of(values)
    digits += 1 if median < 10 else 0
    text = f"{median:.{digits}f}"
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})" if len(values) > 1 else text
