"""``slm-adapters push`` over real HTTP: what arrives at a hub, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest
from huggingface_hub import ModelCard as HubCard
from safetensors.torch import load_file

from slm_adapters import load
from slm_adapters.cli import main
from slm_testing.adapters.publishing_hub import TOKEN, PublishingHub, StoredRepository, serve_hub
from slm_testing.adapters.tiny_adapters import edit_json, refusal

NAME = "me/stories-lora"
Capture = pytest.CaptureFixture[str]
NOT_PUBLISHED = ("optimizer.pt", "training_args.bin", "train.log", ".cache/x", "checkpoint-2/adapter_model.safetensors")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[PublishingHub]:
    """An empty hub, and a login there."""
    with serve_hub() as hub:
        monkeypatch.setattr(hub_constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def full_run(run: Path) -> Path:
    """A run folder with all that a run leaves behind."""
    for name in NOT_PUBLISHED:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("x")
    edit_json(run / "run.json", arguments={"output_dir": str(run), "train_file": [str(run / "mine.txt")]})
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    return run


def published(hub: PublishingHub, name: str = NAME, branch: str = "main") -> dict[str, bytes]:
    return hub.repositories[name].branches[branch]


def metadata(files: dict[str, bytes]) -> dict[str, Any]:
    """Return the metadata of the README.md among ``files``, as the hub's own library reads it."""
    values: dict[str, Any] = HubCard(files["README.md"].decode()).data.to_dict()
    return values


def download(hub: PublishingHub, folder: Path) -> Path:
    folder.mkdir()
    for name, content in published(hub).items():
        (folder / name).write_bytes(content)
    return folder


def test_an_adapter_arrives_with_its_card_and_without_paths_of_this_machine(
    hub: PublishingHub, full_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = {path: path.read_bytes() for path in full_run.iterdir() if path.is_file()}
    assert main(["push", str(full_run), NAME]) == 0
    files = published(hub)
    assert sorted(files) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "metrics.jsonl",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [name for name, content in files.items() if str(tmp_path).encode() in content] == []
    assert json.loads(files["run.json"])["arguments"] == {"output_dir": "run", "train_file": ["mine.txt"]}
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] is None
    assert files["adapter_model.safetensors"] == (full_run / "adapter_model.safetensors").read_bytes()
    assert {path: path.read_bytes() for path in full_run.iterdir() if path.is_file()} == before
    output = capsys.readouterr().out
    assert all(name in output for name in files)
    assert "left out: .cache, checkpoint-2, optimizer.pt, train.log, training_args.bin" in output
    assert f"uploaded: {hub.url}/{NAME}/commit/" in output


def test_what_was_published_can_be_loaded_again(hub: PublishingHub, run: Path, base: Path, tmp_path: Path) -> None:
    assert main(["push", str(run), NAME]) == 0
    folder = download(hub, tmp_path / "copy")
    weights = load(base, folder).model.state_dict()
    assert all(weights[name].equal(values) for name, values in load(run).model.state_dict().items())
    assert load_file(folder / "adapter_model.safetensors")


def test_a_named_base_is_in_the_card_and_in_the_configuration(hub: PublishingHub, run: Path) -> None:
    flags = ["--base", "distilgpt2", "--license", "apache-2.0", "--revision", "v2", "--message", "first"]
    assert main(["push", str(run), NAME, *flags]) == 0
    files = published(hub, branch="v2")
    assert (
        metadata(files).items()
        >= {
            "base_model": "distilbert/distilgpt2",
            "base_model_relation": "adapter",
            "license": "apache-2.0",
            "library_name": "peft",
        }.items()
    )
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "distilbert/distilgpt2"
    assert published(hub) == {}
    assert hub.repositories[NAME].messages == ["first"]


def test_a_folder_is_no_base_that_can_be_named(run: Path, capsys: Capture) -> None:
    assert "--base '/models/x' is not an id on the hub; give OWNER/NAME" in refusal(
        capsys, "push", run, NAME, "--base", "/models/x"
    )


def test_a_recorded_base_on_the_hub_is_kept_and_no_other_is_accepted(
    hub: PublishingHub, run: Path, capsys: Capture
) -> None:
    edit_json(run / "run.json", base="distilbert/distilgpt2", hub={"base": "distilbert/distilgpt2"})
    assert "trained on distilbert/distilgpt2, not on me/x" in refusal(capsys, "push", run, NAME, "--base", "me/x")
    assert main(["push", str(run), NAME]) == 0
    assert metadata(published(hub))["base_model"] == "distilbert/distilgpt2"


def test_a_merged_model_is_published_with_the_card_of_the_merge(hub: PublishingHub, run: Path, tmp_path: Path) -> None:
    assert main(["merge", str(run), str(tmp_path / "merged")]) == 0
    assert main(["push", str(tmp_path / "merged"), NAME, "--private"]) == 0
    assert hub.repositories[NAME].private
    files = published(hub)
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json"} <= files.keys()
    assert metadata(files)["tags"] == ["slm", "lora", "merged"]
    assert [name for name, content in files.items() if str(tmp_path).encode() in content] == []


def test_a_folder_with_a_gguf_file_needs_no_configuration(hub: PublishingHub, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")
    (tmp_path / "llama.log").write_text("x")
    assert main(["push", str(tmp_path), NAME, "--base", "distilbert/distilgpt2"]) == 0
    assert sorted(published(hub)) == ["Modelfile", "README.md", "model.gguf"]
    data = metadata(published(hub))
    assert (data["base_model"], data["tags"]) == ("distilbert/distilgpt2", ["slm", "gguf"])


def test_a_dry_run_needs_no_login_and_no_network(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(hub_constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(run), NAME, "--dry_run"]) == 0
    assert "adapter_model.safetensors" in capsys.readouterr().out


def test_the_users_own_card_is_published_as_it_is(hub: PublishingHub, run: Path) -> None:
    own = "---\n# by hand\nlicense: mit\n---\n\nMine.\n"
    (run / "README.md").write_text(own)
    assert main(["push", str(run), NAME]) == 0
    assert published(hub)["README.md"].decode() == own
    (run / "README.md").write_text("No metadata.\n")
    assert main(["push", str(run), NAME]) == 0
    assert published(hub)["README.md"].decode() == "No metadata.\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("base_model: /models/distilgpt2", "its base_model '/models/distilgpt2' is a path on this machine; give an id"),
        ("base_model: [gpt2, 'a b']", "its base_model 'a b' cannot be an id"),
        ("datasets: ../texts", "its datasets '../texts' is a path on this machine"),
        ("license: Apache 2.0", "its license 'Apache 2.0' is not an identifier of the hub"),
        ("library_name: [peft]", "its library_name ['peft'] must be a text"),
        ("tags: [slm, 3]", "its tag 3 must be a word"),
        ("tags: [slm", "is not valid"),
        ("- a list", "is not valid"),
    ],
)
def test_metadata_that_the_hub_would_refuse_is_named_before_the_upload(
    run: Path, capsys: Capture, text: str, problem: str
) -> None:
    (run / "README.md").write_text(f"---\n{text}\n---\n\nMine.\n")
    assert problem in refusal(capsys, "push", run, NAME)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("stories", "give OWNER/NAME"),
        ("me/", "give OWNER/NAME"),
        ("a/b/c", "give OWNER/NAME"),
        ("me/a b", "give OWNER/NAME"),
        ("me/a--b", "give OWNER/NAME"),
        ("datasets/me/x", "names a kind of repository; give OWNER/NAME alone, for a model"),
    ],
)
def test_a_name_that_the_hub_cannot_have_is_refused(run: Path, capsys: Capture, name: str, problem: str) -> None:
    assert problem in refusal(capsys, "push", run, name)


# What the hub refuses. In all of these cases the list of files is printed first.


def failure(capsys: Capture, run: Path, *flags: str) -> str:
    """Push, assert that it ends with one sentence and exit code 2, and return the sentence."""
    capsys.readouterr()
    assert main(["push", str(run), NAME, *flags]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    return errors


@pytest.mark.parametrize("token", ["", "hf_wrong"], ids=["none", "wrong"])
def test_a_token_that_is_missing_or_wrong(
    hub: PublishingHub,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    token: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    sentence = failure(capsys, run)
    assert ("does not accept the token" if token else "you are not logged in") in sentence
    assert "log in with 'hf auth login', or set HF_TOKEN to a token with write access" in sentence
    assert token not in sentence or not token


def test_an_owner_under_whom_the_token_may_not_write(hub: PublishingHub, run: Path, capsys: Capture) -> None:
    hub.writable.clear()
    assert "the token of me may not write there; use one with write access to it" in failure(capsys, run)


def test_a_name_of_a_repository_of_another_type(hub: PublishingHub, run: Path, capsys: Capture) -> None:
    hub.taken.add(NAME)
    assert f"{NAME} is the name of a repository that is not one of a model" in failure(capsys, run)


def test_a_repository_with_another_model(hub: PublishingHub, run: Path, capsys: Capture) -> None:
    files = {"README.md": b"", "config.json": b"{}", "model.safetensors": b"x"}
    hub.repositories[NAME] = StoredRepository(branches={"main": files})
    assert f"{NAME} holds another model (config.json)" in failure(capsys, run)
    assert len(files) == 3


def test_a_public_repository_is_not_taken_for_a_private_one(hub: PublishingHub, run: Path, capsys: Capture) -> None:
    hub.repositories[NAME] = StoredRepository()
    assert f"{NAME} exists and is public" in failure(capsys, run, "--private")
    assert published(hub) == {}


def test_an_interrupted_upload_is_continued_by_the_same_command(hub: PublishingHub, run: Path, capsys: Capture) -> None:
    hub.broken.add("/commit/main")
    sentence = failure(capsys, run)
    assert "the connection to the hub was interrupted" in sentence
    assert "run the same command again" in sentence
    assert (published(hub), hub.sent) == ({}, 1)
    hub.broken.clear()
    assert main(["push", str(run), NAME]) == 0
    assert hub.sent == 1
    assert "adapter_model.safetensors" in published(hub)


def test_a_hub_that_cannot_be_reached(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(hub_constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub at http://127.0.0.1:9 cannot be reached; check the network" in failure(capsys, run)


@pytest.mark.parametrize(
    ("end", "answer", "sentence"),
    [
        ("/whoami-v2", (503, ""), "the hub answers with status 503; try again later"),
        ("/commit/main", (400, "License is not valid"), "does not accept the request (License is not valid)"),
        ("/commit/main", (413, ""), "the hub answers with status 413"),
    ],
)
def test_another_answer_of_the_hub_is_one_sentence(
    hub: PublishingHub, run: Path, capsys: Capture, end: str, answer: tuple[int, str], sentence: str
) -> None:
    hub.answers[end] = answer
    assert sentence in failure(capsys, run)


def test_a_file_that_the_repository_ignores_is_reported(hub: PublishingHub, run: Path, capsys: Capture) -> None:
    hub.ignored.add("run.json")
    assert f"{NAME} does not take run.json; remove it from the .gitignore there" in failure(capsys, run)
