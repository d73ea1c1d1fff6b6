"""On a device without float64, emulated here, an adapter is merged and a model served."""

from __future__ import annotations

from pathlib import Path

import pytest

import slm_testing.forked as forked

RUN = (
    *("--max_train_samples", "20", "--max_eval_samples", "2", "--block_size", "64", "--max_steps", "2", "--use_cpu"),
    *("--threads", "1", "--bf16", "false", "--mode", "butterfly", "--prompt", ""),
)


@pytest.mark.parametrize("part", ["merge", "serve"])
def test_what_was_trained_is_merged_and_served_without_float64_on_the_device(
    run_folder: Path, tmp_path: Path, part: str
) -> None:
    result = forked.run("slm_testing.workspace.without_float64", [part, run_folder], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    result = forked.run("slm_train.cli", [*RUN, "--output_dir", folder / "butterfly"], folder)
    assert result.returncode == 0, result.stderr
    return folder / "butterfly"
