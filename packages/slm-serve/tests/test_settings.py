"""Flags, variables and Python say the same things."""

from pathlib import Path

import pytest
from dotenv import dotenv_values

from slm_serve import Settings, create_app
from slm_serve.backends.loading import names
from slm_serve.errors import StartError
from slm_serve.settings import NamedAdapter


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SLM_{name.upper()}", raising=False)


def test_the_environment_speaks_and_what_is_given_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_ADAPTER", "red=a, blue=b")
    monkeypatch.setenv("SLM_MAX_QUEUE", "5")
    monkeypatch.setenv("SLM_CORS_ORIGIN", "https://one.example,https://two.example")
    found = Settings(max_queue=7)
    assert found.adapter == (NamedAdapter(name="red", path="a"), NamedAdapter(name="blue", path="b"))
    assert found.max_queue == 7
    assert found.cors_origin == ("https://one.example", "https://two.example")
    assert (found.model_path, found.host, found.adapters) == ("sample", "127.0.0.1", {"red": "a", "blue": "b"})


def test_the_environment_of_settings_says_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(model_path="m", adapter=("red=a", "blue=b"), api_key="k", max_pages=9, log_prompts=True)
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


def test_the_key_does_not_show() -> None:
    assert "s3cret" not in repr(Settings(api_key="s3cret"))


def test_an_adapter_alone_is_called_by_its_folder_and_is_the_default(tmp_path: Path) -> None:
    folder = tmp_path / "stories"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    for given in (
        Settings(model_path=str(folder)),
        Settings(model_path=str(folder), adapter_path=str(folder)),
        Settings(adapter_path=str(folder)),
    ):
        assert given.adapters == {"stories": str(folder)}
        assert given.default_adapter == "stories"
    served = names(given, "sample", {"stories": "unmerged"})
    assert list(served) == ["stories", "sample"]
    assert served["stories"].parent == "sample"
    assert Settings(adapter=(f"mine={folder}",)).default_adapter is None


def test_no_path_becomes_a_name(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert list(names(Settings(), str(tmp_path / "model"), {})) == ["model"]
    assert list(names(Settings(), "distilbert/distilgpt2", {})) == ["distilbert/distilgpt2"]
    assert list(names(Settings(served_model_name="mine"), str(tmp_path), {})) == ["mine"]
    with pytest.raises(StartError, match="give another --served_model_name"):
        names(Settings(), "sample", {"sample": "unmerged"})


def test_the_example_of_an_environment_names_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    example = Path(__file__).parent.parent / "environment.example"
    for line in example.read_text().splitlines():
        name, equals, _ = line.removeprefix("# ").partition("=")
        assert not equals or " " in name or name.removeprefix("SLM_").lower() in Settings.model_fields
    for name, value in dotenv_values(example).items():
        monkeypatch.setenv(name, value or "")
    assert Settings().max_pages == 512


def test_a_misspelt_variable_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SLM_MODEL_PTH", "sample")
    create_app()
    assert "SLM_MODEL_PTH is no setting" in caplog.text
