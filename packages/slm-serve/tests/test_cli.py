"""Flags of ``slm-serve``: help, version, invalid values, and a start without heavy imports."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from slm_serve import Settings, __version__
from slm_serve.cli import main
from slm_testing.start_up import run_fresh


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["--prot", "80"], 2),
        (["--max_sequence", "3"], 2),
        (["--port", "70000"], 2),
        (["--adapter", "x"], 2),
    ],
    ids=str,
)
def test_help_version_and_mistakes_import_no_heavy_library(flags: Sequence[str], code: int) -> None:
    process = run_fresh("slm_serve.cli", flags)
    assert process.code == code, process.errors
    assert process.heavy_imports == []


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"slm-serve {__version__}\n"


def test_the_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in Settings.model_fields)
    assert " 1 %" in printed
    assert "%%" not in printed


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--port", "70000"], "port must be at most 65535, not 70000"),
        (["--max_pages", "0"], "max_pages must be at least 1, not 0"),
        (["--max_queue", "many"], "max_queue must be an integer, not 'many'"),
        (["--adapter", "nameless"], "adapter: 'nameless' is not of the form name=path"),
        (["--adapter", "a b=c"], "adapter: 'a b' is not a valid name"),
        (["--adapter", "a=b", "--adapter", "a=c"], "two adapters have the same name (a, a); rename one"),
        (["--api_key", " "], "api_key: the key is empty"),
        (["--request_timeout", "0"], "request_timeout must be greater than 0, not 0"),
    ],
)
def test_an_invalid_flag_is_rejected_in_one_sentence(
    capsys: pytest.CaptureFixture[str], flags: Sequence[str], sentence: str
) -> None:
    assert main(flags) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"slm-serve: {sentence}")
    assert printed.count("\n") == 1


def test_a_key_is_read_from_a_folder_of_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []

    def serve(settings: Settings) -> int:
        served.append(settings)
        return 0

    monkeypatch.setattr("slm_serve.server.serve", serve)
    (tmp_path / "slm_api_key").write_text("s3cret\n")
    (tmp_path / "grafana_password").write_text("other")
    assert main(["--secrets_dir", str(tmp_path)]) == 0
    assert served[0].api_key is not None
    assert served[0].api_key.get_secret_value() == "s3cret"


def test_a_folder_without_secrets_is_refused_rather_than_serving_without_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "api_key").write_text("s3cret")
    assert main(["--secrets_dir", str(tmp_path)]) == 2
    assert "has no file named like a variable, such as slm_api_key" in capsys.readouterr().err
    assert main(["--secrets_dir", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
