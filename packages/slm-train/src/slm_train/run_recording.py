"""What run.json records: before training, at each evaluation, and of the costs of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from transformers import PreTrainedModel

from slm_adapters import gguf_precision
from slm_data import dataset_hub_id
from slm_train.checkpoints.retention import last_checkpoint
from slm_train.data.rows import summarize_rows, summarize_validation
from slm_train.errors import DivergenceError
from slm_train.hardware.device_defaults import precision_name
from slm_train.learning_rate_search.search import LearningRateSearch
from slm_train.loop.trainer import SlmTrainer
from slm_train.model.base_model import BaseModel
from slm_train.model.learning_rates import default_learning_rate
from slm_train.model.parameter_counts import count_parameters, weight_bytes
from slm_train.reports.text_samples import continue_prompts
from slm_train.reports.training_costs import TrainingCosts
from slm_train.run_folder.environment import environment
from slm_train.run_folder.run_record import write_run
from slm_train.run_folder.samples import recorded_samples
from slm_train.training_run import Run

# Metrics that the Trainer adds to an evaluation and that run.json leaves out.
_UNRECORDED = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def opening_record(current: Run, dataset: str, model: PreTrainedModel) -> dict[str, Any]:
    """Return the record of a run before training. That of a resumed run keeps its evaluation before training."""
    arguments, rows = current.arguments, current.rows
    parameters = count_parameters(model)
    return {
        "status": "running",
        "mode": arguments.model.mode,
        "base": current.base.name,
        "dataset": dataset,
        **({"chat": current.base.chat.as_dict()} if current.base.chat else {}),
        "hub": _hub_ids(current),
        "date": datetime.now(UTC).date().isoformat(),
        "precision": precision_name(arguments.training),
        **_base_precision(current.base),
        **environment(arguments.training.device, arguments.device_name),
        "data": {"train": summarize_rows(rows.train), "validation": summarize_validation(rows)},
        "parameters": {"trainable": parameters.trainable, "total": parameters.total},
        "memory": current.record["memory"] | {"weights": weight_bytes(model)},
        "evaluation": _before((current.start.record or {}).get("evaluation", {})),
        "samples": _before(recorded_samples(current.start.record or {})),
        "arguments": arguments.as_dict(),
    }


def _base_precision(base: BaseModel) -> dict[str, str]:
    """Return the precision that a base from a GGUF file had there: its weights are dequantised when they are read."""
    precision = gguf_precision(base.source) if base.source else None
    return {"base_precision": precision} if precision else {}


def _hub_ids(current: Run) -> dict[str, str | None]:
    """Return the ids of base and dataset on the hub: other names may be folders, or mean something here only."""
    location, source = current.base.source, current.arguments.source
    return {
        "base": location.name if location and location.is_on_hub else None,
        "dataset": None if source.train_file else dataset_hub_id(source.dataset),
    }


def _before(values: dict[str, Any]) -> dict[str, Any]:
    """Return the part ``before`` training of what the resumed run recorded; empty for a new run."""
    return {when: value for when, value in values.items() if when == "before"}


def record_evaluation(current: Run, trainer: SlmTrainer, when: str, metrics: dict[str, Any]) -> None:
    """Record metrics and text samples."""
    values = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    current.record["evaluation"][when] = {name: v for name, v in values.items() if name not in _UNRECORDED}
    if prompts := current.arguments.run.prompt:
        model: Any = trainer.model
        current.record["samples"][when] = continue_prompts(model, current.base.tokenizer, prompts, current.base.chat)
    if current.arguments.training.should_save:
        write_run(current.start.folder, current.record)


def record_search(current: Run, search: LearningRateSearch) -> None:
    """Record a learning-rate search; its rate becomes that of the run wherever the record has one."""
    current.record["identity"]["settings"]["learning_rate"] = search.chosen
    current.record["arguments"]["learning_rate"] = search.chosen
    current.record["learning_rate_search"] = search.as_dict()
    if current.arguments.training.should_save:
        write_run(current.start.folder, current.record)


@contextmanager
def recorded_failure(current: Run) -> Iterator[None]:
    """Record a DivergenceError of the block, which is raised again with what there is to continue from."""
    try:
        yield
    except DivergenceError as error:
        _record_failure(current, error)
        raise


def _record_failure(current: Run, error: DivergenceError) -> None:
    """Record why the run stopped, and add to ``error`` what there is to continue from, and what to try."""
    checkpoint = last_checkpoint(current.start.folder)
    saved = f"the last checkpoint before it is {checkpoint}" if checkpoint else "there is no checkpoint before it"
    error.remedy = f"; the run stopped without final weights, and {saved}. {_remedy(current, error)}"
    current.record |= {"status": "failed", "failure": {"step": error.step, "reason": str(error)}}
    if current.arguments.training.should_save:
        write_run(current.start.folder, current.record)


def _remedy(current: Run, error: DivergenceError) -> str:
    training = current.arguments.training
    if not error.step:
        precision = "--fp16" if training.fp16 else "--bf16" if training.bf16 else ""
        without = f", or leave out 16-bit arithmetic ({precision} false)" if precision else ""
        return f"The base model's weights may be damaged: copy them again{without}."
    rate = min(training.learning_rate / 5, default_learning_rate(current.arguments.model, current.base))
    lower = f"Start again with a lower --learning_rate, such as {rate:.2g}"
    return f"{lower}, or with --bf16 true or --fp16 false." if training.fp16 else f"{lower}."


def record_best(current: Run, trainer: SlmTrainer, print_line: Callable[[str], None]) -> None:
    """Record and print the best evaluation of a run that depends on it."""
    best, step = current.best, trainer.state.global_step
    if not best.is_used:
        return
    is_early = best.is_exhausted and step < current.steps
    current.record["best"] = {
        "step": best.step,
        "loss": best.loss if best.step else None,
        "stopped_early": is_early,
        "kept": best.keep and best.step > 0,
    }
    if is_early:
        print_line(
            f"stopped after step {step:,}: {best.evaluations_since} evaluations without a better loss (--patience)"
        )
    if best.keep and best.step:
        print_line(f"kept the weights of step {best.step:,}, loss {best.loss:.4f} (--keep_best)")
    before = current.record["evaluation"]["before"]["loss"]
    if not best.loss < before:
        print_line(
            f"no evaluation during training was better than the base model, loss {before:.4f}: try a lower "
            "--learning_rate"
        )


def record_costs(current: Run, costs: TrainingCosts, tokens: int, skipped: int | None = None) -> None:
    """Record memory and speed; ``skipped`` steps had gradients beyond float16, None with other precisions."""
    before = current.start.record
    if not costs.steps and before and "speed" in before:  # the resumed run had already finished training
        current.record |= {part: before[part] for part in ("memory", "speed")}
        return
    current.record["memory"] |= {
        "gradients": costs.gradients,
        "optimizer": costs.optimizer,
        "peak": current.memory.peak(),
    }
    current.record["speed"] = {
        "steps": costs.steps,
        "tokens": tokens,
        "train_seconds": costs.seconds,
        "tokens_per_second": tokens / max(costs.seconds, 1e-9),
    }
    if skipped is not None:
        current.record["speed"]["skipped_steps"] = skipped
