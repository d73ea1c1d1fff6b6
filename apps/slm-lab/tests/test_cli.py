"""``slm-lab`` as a process: version, exports, and what is imported before it responds."""

from __future__ import annotations

import pytest

import slm_lab
from slm_testing.start_up import run_fresh


@pytest.mark.parametrize(
    ("argv", "code", "output"),
    [
        (["--help"], 0, "check what works on this machine"),
        (["compare", "--help"], 0, "--max_minutes"),
        (["eval", "--help"], 0, "slm-lab eval outputs/run --perplexity wikitext2 --stride 512"),
        (["eval", "sample", "--tsaks", "piqa"], 2, "slm-lab eval has no flag '--tsaks'"),
        (["--version"], 0, f"slm-lab {slm_lab.__version__}"),
        (["runs", "--srot", "mode"], 2, "slm-lab runs has no flag '--srot'"),
        (["compare", "--max_stpes", "4"], 2, "--max_steps"),
        (["compare", "--max_steps", "4", "--lora_rnk", "8"], 2, "--lora_r?"),
        (["comprae"], 2, "'comprae'"),
        (["runs", "missing-folder"], 2, "does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_help_version_and_mistakes_import_no_heavy_library(argv: list[str], code: int, output: str) -> None:
    ended = run_fresh("slm_lab.cli", argv)
    assert ended.code == code, ended.errors
    assert output in ended.output + ended.errors
    assert ended.heavy_imports == []


def test_every_exported_name_can_be_imported() -> None:
    assert sorted(slm_lab.__all__) == sorted(slm_lab._EXPORTS)
    assert all(getattr(slm_lab, name).__name__ == name for name in slm_lab.__all__)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = slm_lab.missing
