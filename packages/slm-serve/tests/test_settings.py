"""Settings from flags, environment variables and Python."""

from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import ValidationError

from slm_serve import Settings, create_app
from slm_serve.backends.served_models import served_models
from slm_serve.errors import StartError
from slm_serve.settings import NamedAdapter


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SLM_{name.upper()}", raising=False)


def test_settings_are_read_from_the_environment_and_arguments_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_ADAPTER", "red=a, blue=b")
    monkeypatch.setenv("SLM_MAX_QUEUE", "5")
    monkeypatch.setenv("SLM_CORS_ORIGIN", "https://one.example,https://two.example")
    settings = Settings(max_queue=7)
    assert settings.adapter == (NamedAdapter(name="red", path="a"), NamedAdapter(name="blue", path="b"))
    assert settings.max_queue == 7
    assert settings.cors_origin == ("https://one.example", "https://two.example")
    expected = ("sample", "127.0.0.1", {"red": "a", "blue": "b"})
    assert (settings.model_path, settings.host, settings.adapters) == expected


def test_the_environment_of_settings_gives_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model_path="m", adapter=("red=a", "blue=b"), api_key="k", max_pages=9, log_prompts=True)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_the_key_is_not_shown() -> None:
    assert "s3cret" not in repr(Settings(api_key="s3cret"))


def test_descriptions_are_plain_text() -> None:
    descriptions = {name: field.description or "" for name, field in Settings.model_fields.items()}
    assert [name for name, text in descriptions.items() if not text or "%%" in text] == []
    assert "1 %" in descriptions["weights"]


def test_an_unnamed_adapter_is_served_under_its_folder_name_as_the_default(tmp_path: Path) -> None:
    folder = tmp_path / "stories"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    for settings in (
        Settings(model_path=str(folder)),
        Settings(model_path=str(folder), adapter_path=str(folder)),
        Settings(adapter_path=str(folder)),
    ):
        assert settings.adapters == {"stories": str(folder)}
        assert settings.default_adapter == "stories"
    served = served_models(settings, "sample", {"stories": "unmerged"})
    assert list(served) == ["stories", "sample"]
    assert served["stories"].parent == "sample"
    assert Settings(adapter=(f"mine={folder}",)).default_adapter is None


def test_the_name_of_the_base_is_never_a_path(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert list(served_models(Settings(), str(tmp_path / "model"), {})) == ["model"]
    assert list(served_models(Settings(), "distilbert/distilgpt2", {})) == ["distilbert/distilgpt2"]
    assert list(served_models(Settings(served_model_name="mine"), str(tmp_path), {})) == ["mine"]
    with pytest.raises(StartError, match="give another --served_model_name"):
        served_models(Settings(), "sample", {"sample": "unmerged"})


def test_the_example_environment_contains_only_valid_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    example = Path(__file__).parent.parent / "environment.example"
    for line in example.read_text().splitlines():
        name, equals, _ = line.removeprefix("# ").partition("=")
        assert not equals or " " in name or name.removeprefix("SLM_").lower() in Settings.model_fields
    for name, value in dotenv_values(example).items():
        monkeypatch.setenv(name, value or "")
    assert Settings().max_pages == 512


def test_a_misspelt_variable_causes_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLM_MODEL_PTH", "sample")
    create_app()
    assert "SLM_MODEL_PTH is not a setting" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", ""),  # an empty name would listen on all addresses
        ("model_path", ""),
        ("cors_origin", ("app.example",)),
        ("cors_origin", ("https://app.example/",)),
        ("cors_origin", ("*", "https://app.example/page")),
        ("allowed_hosts", ("https://app.example",)),
        ("allowed_hosts", ("app.example:8000",)),
        ("allowed_hosts", ("app.example/",)),
        ("allowed_hosts", ("a.*.example",)),
    ],
)
def test_values_that_no_request_could_match_are_refused_at_start_up(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cors_origin", ("*", "null", "https://app.example", "http://localhost:3000", "http://[::1]:80", "app://-")),
        ("allowed_hosts", ("*", "*.example", "app.example", "localhost.", "192.0.2.1", "[::1]", "bücher.example")),
    ],
)
def test_origins_and_names_of_hosts_are_kept(name: str, values: tuple[str, ...]) -> None:
    assert getattr(Settings(**{name: values}), name) == values
