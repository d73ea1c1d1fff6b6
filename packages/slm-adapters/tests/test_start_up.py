"""Start-up of the real command: help, version and mistakes are fast and import nothing heavy."""

import pytest

import slm_adapters
from slm_testing.start_up import run_fresh


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--help"], 0, "usage: slm-adapters"),
        (["merge", "--help"], 0, "slm-adapters merge outputs/lora outputs/lora-merged"),
        (["--version"], 0, f"slm-adapters {slm_adapters.__version__}"),
        (["inspect", "outputs", "--jsno"], 2, "slm-adapters: unrecognized arguments: --jsno; see slm-adapters --help"),
        ([], 2, "slm-adapters: the following arguments are required: COMMAND; see slm-adapters --help"),
    ],
    ids=["help", "help-of-a-command", "version", "mistyped-flag", "no-command"],
)
def test_help_version_and_mistakes_import_no_heavy_library(arguments: list[str], code: int, expected: str) -> None:
    process = run_fresh("slm_adapters.cli", arguments)
    assert process.code == code
    assert expected in (process.output if code == 0 else process.errors)
    assert len(process.errors.splitlines()) == (1 if code else 0)
    assert process.heavy_imports == []
