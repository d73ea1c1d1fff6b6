"""Memory estimates of a dry run, compared with runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slm_data import load_corpus
from slm_testing.train.tiny_runs import Tiny, read_record, run_command
from slm_train.command_line.parsing import parse_arguments
from slm_train.data.rows import make_rows, optimizer_steps
from slm_train.model.base_model import find_base_model
from slm_train.reports.memory_estimate import MemoryEstimate, estimate_memory


def estimated(tiny: Tiny, folder: Path, *more: str) -> tuple[MemoryEstimate, int]:
    arguments = parse_arguments(tiny.flags(folder, *more))
    corpus = load_corpus(arguments.source)
    base = find_base_model(arguments.model, arguments.model_name, corpus.train)
    rows = make_rows(arguments, corpus, base, lambda _: None)
    return estimate_memory(arguments, base, rows)[0], optimizer_steps(arguments, rows)


@pytest.mark.parametrize("mode", ["baseline", "lora", "qlora", "butterfly", "butterfly_block"])
def test_the_estimate_of_weights_gradients_and_optimizer_equals_that_of_the_run(
    tiny: Tiny, tmp_path: Path, mode: str
) -> None:
    from slm_train.cli import main

    length = ("--max_steps", "-1", "--num_train_epochs", "1", "--max_train_samples", "6")
    more = ("--mode", mode, *length, "--gradient_accumulation_steps", "2")
    estimate, steps = estimated(tiny, tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()
    assert main(tiny.flags(tmp_path / "run", *more)) == 0
    record = read_record(tmp_path / "run")
    memory = record["memory"]
    assert (estimate.weights, estimate.gradients) == (memory["weights"], memory["gradients"])
    assert estimate.optimizer == pytest.approx(memory["optimizer"], rel=0.01)  # plus a step counter for each tensor
    assert record["parameters"] == {"trainable": estimate.parameters.trainable, "total": estimate.parameters.total}
    assert steps == record["speed"]["steps"]


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(tiny: Tiny, tmp_path: Path) -> None:
    sizes = {}
    for batch, more in ((4, ()), (8, ()), (8.5, ("--gradient_checkpointing",))):
        flags = ("--mode", "baseline", "--per_device_train_batch_size", str(int(batch)), *more)
        sizes[batch] = estimated(tiny, tmp_path / "run", *flags)[0].activations
    assert 1.8 < sizes[8] / sizes[4] < 2.2
    assert sizes[8.5] < sizes[8]


@pytest.mark.slow  # two processes of its own, 25 seconds; the parts of the estimate are tested above
def test_the_peak_of_a_dry_run_is_that_of_the_run(tiny: Tiny, tmp_path: Path) -> None:
    """Dry run and run are processes of their own, because resident memory is measured per process.

    The batch is large, so that activations dominate.
    """
    flags = tiny.flags(
        tmp_path / "run", "--mode", "baseline", "--per_device_train_batch_size", "64", "--max_steps", "2"
    )
    dry = run_command([*flags, "--dry_run"])
    assert dry.returncode == 0, dry.stderr
    assert not (tmp_path / "run").exists()
    estimated_peak = re.search(r"peak resident memory\W+([\d,.]+) MB", dry.stdout)
    assert estimated_peak, dry.stdout
    assert run_command(flags).returncode == 0
    measured = read_record(tmp_path / "run")["memory"]["peak"]
    assert float(estimated_peak[1].replace(",", "")) * 1e6 == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("more", [(), ("--fused_loss", "false")])
def test_a_default_evaluation_takes_no_more_memory_than_a_step_and_a_large_batch_does(
    tiny: Tiny, tmp_path: Path, more: tuple[str, ...]
) -> None:
    estimate = estimated(tiny, tmp_path / "run", *more)[0]
    assert 0 < estimate.evaluation <= estimate.activations
    large = estimated(tiny, tmp_path / "run", *more, "--per_device_eval_batch_size", "256", "--packing", "none")[0]
    assert large.evaluation > estimate.activations
    assert large.peak - large.process - large.weights - large.optimizer - large.fragmentation == large.evaluation
