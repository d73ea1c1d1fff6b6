"""``--push_to_hub``: refused before anything is written if it cannot work; what is uploaded is the finished run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import LocalTokenNotFoundError

from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.cli import main


class HubError(OSError):
    """An error of the hub with a status, as its library raises them."""

    def __init__(self, status: int):
        super().__init__("refused")
        self.response = SimpleNamespace(status_code=status)


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the hub: what is uploaded, with the files that the folder has at that time."""
    made: list[dict[str, Any]] = []

    def create_commit(_: HfApi, name: str, operations: list[CommitOperationAdd], **named: Any) -> None:
        contents = {operation.path_in_repo: operation.path_or_fileobj for operation in operations}
        read = {file: it if isinstance(it, bytes) else Path(str(it)).read_bytes() for file, it in contents.items()}
        made.append({"repository": name, "files": read, **named})

    monkeypatch.setattr(HfApi, "whoami", lambda _: {"name": "someone"})
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **__: SimpleNamespace(repo_id=f"someone/{name}"))
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    return made


def test_what_is_uploaded_is_the_finished_run(tiny: Tiny, tmp_path: Path, uploads: list[dict[str, Any]]) -> None:
    flags = ("--max_steps", "2", "--save_steps", "1", "--push_to_hub", "--hub_strategy", "end", "--hub_token", "secret")
    assert main(tiny.flags(tmp_path / "run", *flags)) == 0
    (made,) = uploads
    assert made["repository"] == "someone/run"
    assert json.loads(made["files"]["run.json"])["status"] == "finished"
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "tokenizer.json"} <= made["files"].keys()
    assert not [name for name in made["files"] if name.startswith("checkpoint-") or name.endswith(".bin")]
    assert "secret" not in (tmp_path / "run" / "run.json").read_text()


@pytest.mark.parametrize("strategy", ["end", "checkpoint"])
def test_no_path_of_this_machine_is_uploaded_with_a_model(
    tiny: Tiny, tmp_path: Path, uploads: list[dict[str, Any]], strategy: str
) -> None:
    flags = ("--max_steps", "1", "--save_steps", "1", "--push_to_hub", "--hub_strategy", strategy)
    assert main(tiny.flags(tmp_path / "run", *flags)) == 0
    local = [path.encode() for path in (str(tmp_path), str(tiny.model))]
    for made in uploads:
        model = {name: content for name, content in made["files"].items() if "/" not in name}
        assert not [name for name, content in model.items() if any(path in content for path in local)]


def test_checkpoints_are_uploaded_complete(tiny: Tiny, tmp_path: Path, uploads: list[dict[str, Any]]) -> None:
    flags = ("--max_steps", "2", "--save_steps", "1", "--push_to_hub", "--hub_strategy", "checkpoint")
    assert main(tiny.flags(tmp_path / "run", *flags)) == 0
    weights, whole = uploads[0]["files"], uploads[1]["files"]
    assert "adapter_model.safetensors" in weights
    assert "optimizer.pt" not in weights
    assert {"last-checkpoint/optimizer.pt", "last-checkpoint/adapter_model.safetensors"} <= whole.keys()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    assert whole["last-checkpoint/manifest.json"] == (checkpoint / "manifest.json").read_bytes()
    assert whole["last-checkpoint/adapter_config.json"] == (checkpoint / "adapter_config.json").read_bytes()
    assert json.loads(uploads[-1]["files"]["run.json"])["status"] == "finished"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HubError(401), "the hub answers with status 401; log in with 'hf auth login'"),
        (LocalTokenNotFoundError("no token"), "you are not logged in; log in with"),
    ],
)
def test_a_login_that_the_hub_refuses_ends_the_run_before_it_starts(
    tiny: Tiny, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def whoami(_: HfApi) -> None:
        raise error

    monkeypatch.setattr(HfApi, "whoami", whoami)
    assert reason in refused(tiny.flags(tmp_path / "run", "--push_to_hub"))
    assert not (tmp_path / "run").exists()


def test_a_repository_that_cannot_be_created_is_named(
    tiny: Tiny,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    uploads: list[dict[str, Any]],
) -> None:
    def create_repo(*_: Any, **__: Any) -> None:
        raise HubError(403)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    flags = tiny.flags(tmp_path / "run", "--push_to_hub", "--hub_model_id", "other/model")
    assert "--push_to_hub as someone to other/model: the hub answers with status 403" in refused(flags)
    assert not (tmp_path / "run").exists()
    assert not uploads


def test_a_failed_upload_leaves_a_finished_run_and_says_how_to_upload_it(
    tiny: Tiny, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, uploads: list[dict[str, Any]]
) -> None:
    def create_commit(*_: Any, **__: Any) -> None:
        raise HubError(503)

    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    flags = tiny.flags(tmp_path / "run", "--max_steps", "1", "--push_to_hub", "--hub_strategy", "end")
    assert f"slm-adapters push {tmp_path / 'run'} someone/run" in refused(flags)
    assert read_record(tmp_path / "run")["status"] == "finished"
    assert not uploads
