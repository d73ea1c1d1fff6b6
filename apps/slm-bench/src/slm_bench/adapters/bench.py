"""What ``slm-bench adapters`` does: every method on one base, in turns, and what is claimed of all of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from slm_adapters import AdapterError, check_targets, default_targets
from slm_bench.adapters import decode, exactness, quality, training
from slm_bench.adapters.bases import DISTILGPT2, base_of, digest, four_bits, sharing
from slm_bench.adapters.contenders import Contender, contenders
from slm_bench.adapters.flags import asked, check
from slm_bench.adapters.methods import METHODS
from slm_bench.comparison import Comparison
from slm_bench.envelope import Envelope
from slm_bench.mistakes import one_sentence
from slm_bench.present import present
from slm_bench.promises import Promise
from slm_bench.sealing import seal
from slm_data import SourceOptions, load_corpus
from slm_kv import KVError, load

SAMPLE = "sample"
ROUNDS_OF_DECODING = 3  # times those of training: a turn is short


@dataclass(frozen=True)
class Setting:
    """What one run asks for; ``model`` as it is named in the output."""

    model: str
    target_modules: list[str]
    device: str
    threads: int
    bf16: bool
    batch_size: int
    tokens: int
    rounds: int
    full: bool


@dataclass(frozen=True)
class Learning:
    """What --quality asks for: texts, steps of a run, runs of each method."""

    dataset: str
    steps: int
    seeds: int


@dataclass
class Found:
    """What was measured so far."""

    samples: dict[str, Any] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def run(given: argparse.Namespace) -> int:
    """Measure, print, write and plot; 1 where a promise was not kept. Raises KVError for a user's mistake."""
    check(given)
    disable_progress_bar()
    with one_sentence():
        return present(measure(given), given.json, given.plot)


def measure(given: argparse.Namespace) -> Envelope:
    """All that ``given`` asks for."""
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if given.threads:
        torch.set_num_threads(given.threads)
    parts, found = asked(given), Found()
    name = given.model_path or (DISTILGPT2 if given.full else SAMPLE)
    path = given.model_path or (None if given.full else SAMPLE)
    base = base_of(path, device)
    setting, settings = _setting(given, name, base, device), dict[str, Any]()
    if "training" in parts or "decode" in parts:
        _costs(found, setting, base, parts)
    if given.four_bit:
        _over_four_bits(found, setting, path)
    if "quality" in parts:
        learning = _learning(given)
        settings = asdict(learning)
        _quality(found, setting, learning, given.model_path or SAMPLE)
    return seal(
        "adapters",
        asdict(setting) | settings,
        found.samples,
        found.comparisons,
        found.promises,
        left_out=found.left_out,
        device=device,
    )


def _setting(given: argparse.Namespace, name: str, base: Any, device: str) -> Setting:
    tokens = given.tokens or (256 if given.full else 128)
    positions = base.config.max_position_embeddings
    if tokens > positions:
        raise KVError(f"--tokens {tokens} do not fit {name}, which has {positions} positions")
    return Setting(
        model=name,
        target_modules=check_targets(base, given.target_modules or default_targets(base)),
        device=device,
        threads=torch.get_num_threads(),
        bf16=given.bf16,
        batch_size=given.batch_size,
        tokens=tokens,
        rounds=given.rounds or (7 if given.full else 5),
        full=given.full,
    )


def _learning(given: argparse.Namespace) -> Learning:
    steps, seeds = (48, 3) if given.full else (24, 1)
    return Learning(given.dataset or SAMPLE, given.steps or steps, given.seeds or seeds)


def _costs(found: Found, setting: Setting, base: Any, parts: Sequence[str]) -> None:
    """Training steps first: what is decoded with has been trained."""
    before, shape = digest(base), (setting.batch_size, setting.tokens)
    torch.manual_seed(0)
    ids = torch.randint(0, base.config.vocab_size, shape, device=base.device)
    methods = [method for method in METHODS if method.always or setting.full]
    held, found.left_out = contenders(base, methods, setting.target_modules, setting.bf16)
    found.promises += exactness.begin_as_the_base(base, held, ids[:1])
    if "training" in parts:
        costs = training.measure(held, ids, setting.rounds)
        found.samples["training"] = [asdict(cost) for cost in costs]
        found.comparisons.append(training.compare(costs, shape))
    else:
        training.warm_up(held, ids)
    found.promises += exactness.stay_exact(held, ids[:1])
    if "decode" in parts:
        names = {method.name for method in methods if method.decodes}
        _decode(found, setting, [one for one in held if one.name in names], "one token, unmerged")
    found.promises.append(exactness.unchanged(before, digest(base)))


def _decode(found: Found, setting: Setting, held: Sequence[Contender], title: str, *, kept: bool = True) -> None:
    models = {one.name: one.model for one in held}
    more = decode.without_kept_weights(models, sharing) if kept else {}
    times = decode.measure(models | more, setting.rounds * ROUNDS_OF_DECODING)
    found.samples[title] = {name: asdict(one) for name, one in times.items()}
    found.comparisons.append(decode.compare(times, title))


def _over_four_bits(found: Found, setting: Setting, path: str | None) -> None:
    """There the rotation alone is kept."""
    title = "one token, over a base in 4 bits"
    try:
        small = four_bits(path, setting.device)
    except AdapterError:
        found.left_out[title] = (
            "bitsandbytes is not installed, or has no wheel for this machine; pip install bitsandbytes"
        )
        return
    decoding = [method for method in METHODS if method.decodes and (method.always or setting.full)]
    held, left_out = contenders(small, decoding, setting.target_modules, setting.bf16)
    found.left_out |= {f"{name}, {title}": why for name, why in left_out.items()}
    _decode(found, setting, held[1:], title, kept=False)


def _quality(found: Found, setting: Setting, learning: Learning, model_path: str) -> None:
    """On a base that has learnt something: the built-in one, unless another is named."""
    tokenizer = load(model_path, dtype=torch.float32, device="cpu").tokenizer
    base, eval_rows = base_of(model_path, setting.device), 160 if setting.full else 40
    corpus = load_corpus(SourceOptions(dataset=learning.dataset))
    texts = quality.read(corpus, tokenizer, learning.steps, eval_rows, base.device)
    before = quality.evaluate(base, texts.held_out)
    targets = default_targets(base)
    learnt, left_out = quality.measure(base, targets, texts, seeds=learning.seeds, full=setting.full)
    title = (
        f"quality on {learning.dataset} from {model_path}, {learning.steps} steps of {quality.BATCH} x {quality.BLOCK}"
    )
    found.samples["quality"] = {"before": before, "learnt": [asdict(one) for one in learnt]}
    found.comparisons.append(quality.compare(learnt, texts, before, title))
    found.left_out |= left_out
