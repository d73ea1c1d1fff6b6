"""The quality measurement of ``slm-bench adapters``: reads the base and the texts, measures, compares."""

import argparse
import hashlib
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import peft
import torch

import slm_adapters
from slm_adapters import check_targets
from slm_bench.adapters.base_models import digest, load_base
from slm_bench.adapters.quality import comparison
from slm_bench.adapters.quality.families import FAMILIES, FAMILY_NAMES, LORA
from slm_bench.adapters.quality.measurement import Study
from slm_bench.adapters.quality.run_store import Run, RunStore
from slm_bench.adapters.quality.texts import Texts, read_texts, to_device
from slm_bench.adapters.quality.training import evaluate
from slm_bench.errors import BenchError
from slm_bench.harness.arguments import HARBOUR, SAMPLE
from slm_bench.harness.result_file import Findings
from slm_kv import load

MAX_EVAL_ROWS = 64  # otherwise as many as a run trains on
POOL = 4  # times the rows that a run needs: each seed selects other ones


@dataclass(frozen=True)
class QualitySettings:
    """Settings of the measurement; field names are JSON keys."""

    quality_model: str
    dataset: str
    own_dataset: str | None
    methods: tuple[str, ...]
    ranks: tuple[int, ...]
    steps: int
    seeds: int
    eval_rows: int


def settings_of(arguments: argparse.Namespace) -> QualitySettings:
    """Return the settings that the flags select. Raises BenchError for an unknown method."""
    full = arguments.full
    # Without --model_path always the trained built-in base: an adapter over random weights shows no quality.
    model = arguments.model_path or SAMPLE
    steps = arguments.steps or (48 if full else 24)
    return QualitySettings(
        quality_model=model,
        dataset=arguments.dataset or HARBOUR,
        own_dataset=arguments.own_dataset or (SAMPLE if model == SAMPLE else None),
        methods=_method_names(arguments.methods, full),
        ranks=arguments.ranks or ((1, 4, 16) if full else (1, 4)),
        steps=steps,
        seeds=arguments.seeds or (3 if full else 1),
        eval_rows=min(MAX_EVAL_ROWS, steps * arguments.batch_size),
    )


def measure(findings: Findings, settings: QualitySettings, setting: Any, runs: str | None) -> None:
    """Measure and add the comparisons to ``findings``; ``setting``: the benchmark's, ``runs``: the file of runs."""
    base = load_base(settings.quality_model, setting.device)
    texts = _texts(settings, setting, base)
    own_loss = evaluate(base, texts.own, setting.bf16) if texts.own else None
    before = Run(evaluate(base, texts.held_out, setting.bf16), own_loss)
    targets = check_targets(base, setting.target_modules)
    study = Study(
        base,
        targets,
        texts,
        steps=settings.steps,
        batch_rows=setting.batch_size,
        seeds=settings.seeds,
        full=setting.full,
        bf16=setting.bf16,
        store=RunStore(runs),
        identity=_identity(settings, setting, base, texts) | {"targets": targets},
    )
    families = [family for family in FAMILIES if family.short in settings.methods]
    learnt = study.measure(families, settings.ranks)
    task = f"{settings.dataset} from {settings.quality_model}"
    title = f"quality on {task}, {settings.steps} steps of {setting.batch_size} x {setting.tokens}"
    samples = {"before": asdict(before), "learnt": [asdict(result) for result in learnt]}
    findings.add("quality", samples, *comparison.compare(learnt, texts, before, title))
    findings.left_out |= study.left_out


def _method_names(names: str | None, full: bool) -> tuple[str, ...]:
    if names is None:
        return tuple(family.short for family in FAMILIES if full or family.always)
    requested = [name.strip() for name in names.split(",")]
    unknown = [name for name in requested if name not in FAMILY_NAMES]
    if unknown:
        raise BenchError(f"--methods: {unknown[0]!r} is not one of {', '.join(FAMILY_NAMES)}")
    return tuple(name for name in FAMILY_NAMES if name in {*requested, LORA.short})


def _texts(settings: QualitySettings, setting: Any, base: Any) -> Texts:
    tokenizer = load(settings.quality_model, dtype=torch.float32, device="cpu").tokenizer
    needed = settings.steps * setting.batch_size
    read = partial(read_texts, tokenizer=tokenizer, block_size=setting.tokens, held_out=settings.eval_rows)
    train, held_out = read(settings.dataset, train=needed * POOL)
    if len(train) < needed:
        raise BenchError(
            f"{settings.dataset} has {len(train)} rows of {setting.tokens} tokens, and {settings.steps} steps of "
            f"{setting.batch_size} need more; use fewer --steps"
        )
    own = to_device(read(settings.own_dataset, train=1)[1], base.device) if settings.own_dataset else None
    return Texts(to_device(train, base.device), to_device(held_out, base.device), own)


def _identity(settings: QualitySettings, setting: Any, base: Any, texts: Texts) -> dict[str, Any]:
    """Return everything besides method, rate and seed that a run depends on."""
    versions = {"slm-adapters": slm_adapters.__version__, "peft": peft.__version__, "torch": torch.__version__}
    shape = {"steps": settings.steps, "batch_size": setting.batch_size, "tokens": setting.tokens}
    measured = {"bf16": setting.bf16, "device": setting.device, "texts": _digest(texts), "base": digest(base)}
    names = {"model": settings.quality_model, "dataset": settings.dataset}
    return {**names, **versions, **shape, **measured}


def _digest(texts: Texts) -> str:
    checksum = hashlib.blake2b(digest_size=16)
    for rows in (texts.train, texts.held_out, texts.own):
        for tensor in () if rows is None else (rows.input_ids, rows.labels):
            checksum.update(tensor.cpu().numpy().tobytes())
    return checksum.hexdigest()
