"""``--help``, ``--version`` and mistyped flags answer at once: without importing torch or transformers."""

import pytest

import slm_kv
from slm_testing.start_up import run_fresh


@pytest.mark.parametrize(
    ("flags", "code", "output"),
    [
        (["--help"], 0, "usage: slm-paged"),
        (["--version"], 0, f"slm-paged {slm_kv.__version__}\n"),
        (["--max_new_token", "4", "--no_such_flag"], 2, "unrecognized arguments: --no_such_flag"),
        (["--threads", "none"], 2, "'none' is not a whole number of at least 1"),
        (["--temperature", "-1"], 2, "temperature=-1.0 is out of range"),
        (
            ["--weights", "q8", "--weights_text", "/no/such/file"],
            2,
            "--weights_text /no/such/file cannot be read as a text",
        ),
    ],
)
def test_answers_that_need_no_model_import_no_heavy_library(flags: list[str], code: int, output: str) -> None:
    ended = run_fresh("slm_kv.paged", flags)
    assert ended.code == code, ended.errors
    assert output in ended.output + ended.errors
    assert ended.heavy_imports == []
