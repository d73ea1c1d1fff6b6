"""Help, version and mistyped flags respond at once: they import neither torch nor the libraries that import it."""

from __future__ import annotations

from pathlib import Path

import pytest

import slm_train
from slm_testing.start_up import run_fresh


def run_light(*words: str) -> tuple[int, str, str]:
    """Run slm-train in a new interpreter; assert that it imports no heavy library; return exit code and outputs."""
    ended = run_fresh("slm_train.cli", words)
    assert ended.heavy_imports == []
    return ended.code, ended.output, ended.errors


@pytest.mark.parametrize("words", [("--help",), ("--help_all",), ("dynamic", "--help"), ("dynamic", "--help_all")])
def test_help_needs_no_torch(words: tuple[str, ...]) -> None:
    code, output, errors = run_light(*words)
    assert (code, errors) == (0, "")
    assert "--learning_rate X" in output


def test_the_version_needs_no_torch() -> None:
    assert run_light("--version") == (0, f"slm-train {slm_train.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--lerning_rate", "1"), "unknown flag --lerning_rate; did you mean --learning_rate?"),
        (("dynamic", "--patence", "1"), "unknown flag --patence; did you mean --patience?"),
        (
            ("--log_interval", "1"),
            "--log_interval is a flag of the token-budget loop: slm-train dynamic --log_interval",
        ),
        (("dynamic", "--streaming"), "--streaming has no effect in slm-train dynamic: the plan of a run needs"),
        (("--config", "missing.yaml"), "--config missing.yaml: No such file or directory"),
    ],
)
def test_a_wrong_flag_needs_no_torch(words: tuple[str, ...], sentence: str) -> None:
    code, output, errors = run_light(*words)
    assert (code, output) == (2, "")
    assert errors.startswith(f"slm-train: {sentence}")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("learning_rate: [", "is not YAML: line 1"), ("lerning_rate: 1", "did you mean --learning_rate?")],
)
def test_a_broken_file_of_flags_needs_no_torch(tmp_path: Path, text: str, sentence: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text)
    code, output, errors = run_light("--config", str(config))
    assert (code, output) == (2, "")
    assert sentence in errors
