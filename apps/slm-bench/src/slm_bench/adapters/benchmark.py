"""Adapter benchmark: every method on one base model, interleaved, with guarantees about all of them."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from slm_adapters import AdapterError, check_targets, default_targets
from slm_bench.adapters import decoding, exactness, training_steps
from slm_bench.adapters.arguments import requested_measurements
from slm_bench.adapters.base_models import digest, load_base, load_in_four_bits
from slm_bench.adapters.contenders import Contender, make_contenders
from slm_bench.adapters.methods import METHODS
from slm_bench.adapters.quality import benchmark as quality
from slm_bench.errors import BenchError
from slm_bench.harness.arguments import DISTILGPT2_SHAPE, SAMPLE, settings_from
from slm_bench.harness.provenance import new_result
from slm_bench.harness.result_file import Findings, ResultFile

DECODING_ROUNDS = 3  # times as many as for training: a round of decoding is short
NO_BITSANDBYTES = "bitsandbytes is not installed, or has no wheel for this machine; pip install bitsandbytes"


@dataclass(frozen=True)
class Setting:
    """Settings of one run; field names are JSON keys. ``model`` is the name of the base in the output."""

    model: str
    target_modules: list[str]
    device: str
    threads: int
    bf16: bool
    batch_size: int
    tokens: int
    rounds: int
    full: bool


def measure(arguments: argparse.Namespace) -> ResultFile:
    """Run the requested measurements. Raises BenchError for unusable flags."""
    disable_progress_bar()
    requested, findings = requested_measurements(arguments), Findings()
    quality_settings = quality.settings_of(arguments)  # refuses unknown methods before anything is measured
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    has_costs = arguments.four_bit or "training" in requested or "decode" in requested
    path = arguments.model_path or (None if arguments.full and has_costs else SAMPLE)
    base = load_base(path, device)
    setting = _setting(arguments, path or DISTILGPT2_SHAPE, base, device)
    settings = asdict(setting)
    if has_costs:
        _measure_costs(findings, setting, base, requested)
    if arguments.four_bit:
        _measure_four_bits(findings, setting, path)
    if "quality" in requested:
        settings |= asdict(quality_settings)
        quality.measure(findings, quality_settings, setting, arguments.runs)
    return new_result("adapters", settings, findings, device)


def _setting(arguments: argparse.Namespace, name: str, base: Any, device: str) -> Setting:
    tokens = arguments.tokens or (256 if arguments.full else 128)
    positions = base.config.max_position_embeddings
    if tokens > positions:
        raise BenchError(f"--tokens {tokens} do not fit {name}, which has {positions} positions")
    arguments.target_modules = check_targets(base, arguments.target_modules or default_targets(base))
    rounds, threads = 7 if arguments.full else 5, torch.get_num_threads()
    values = {"model": name, "device": device, "threads": threads, "tokens": tokens, "rounds": rounds}
    return settings_from(Setting, arguments, **values)


def _measure_costs(findings: Findings, setting: Setting, base: Any, requested: Sequence[str]) -> None:
    """Measure training, then decoding, which uses the trained adapters."""
    before, shape = digest(base), (setting.batch_size, setting.tokens)
    torch.manual_seed(0)
    input_ids = torch.randint(0, base.config.vocab_size, shape, device=base.device)
    methods = [method for method in METHODS if method.always or setting.full]
    contenders, findings.left_out = make_contenders(base, methods, setting.target_modules, setting.bf16)
    findings.guarantees += exactness.start_as_base(base, contenders, input_ids[:1])
    if "training" in requested:
        costs = training_steps.measure(contenders, input_ids, setting.rounds)
        findings.add("training", costs, training_steps.compare(costs, shape))
    else:
        training_steps.warm_up(contenders, input_ids)
    findings.guarantees += exactness.stay_exact(contenders, input_ids[:1])
    if "decode" in requested:
        names = {method.name for method in methods if method.decodes}
        measured = [contender for contender in contenders if contender.name in names]
        _measure_decoding(findings, setting, measured, "one token, unmerged", cached=True)
    findings.guarantees.append(exactness.base_unchanged(before, digest(base)))


def _measure_decoding(
    findings: Findings, setting: Setting, contenders: Sequence[Contender], title: str, *, cached: bool
) -> None:
    """Measure decoding; with ``cached`` weights, butterflies are measured once more without."""
    models = {contender.name: contender.model for contender in contenders}
    uncached = decoding.without_cached_weights(models) if cached else {}
    times = decoding.measure(models | uncached, setting.rounds * DECODING_ROUNDS)
    findings.add(title, times, decoding.compare(times, title))


def _measure_four_bits(findings: Findings, setting: Setting, path: str | None) -> None:
    """Measure decoding over a base in 4 bits, where butterflies never cache rotated weights."""
    title = "one token, over a base in 4 bits"
    try:
        quantized = load_in_four_bits(path, setting.device)
    except AdapterError:
        findings.left_out[title] = NO_BITSANDBYTES
        return
    methods = [method for method in METHODS if method.decodes and (method.always or setting.full)]
    (_, *adapted), left_out = make_contenders(quantized, methods, setting.target_modules, setting.bf16)
    findings.left_out |= {f"{name}, {title}": reason for name, reason in left_out.items()}
    _measure_decoding(findings, setting, adapted, title, cached=False)
