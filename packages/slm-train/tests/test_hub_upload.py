"""``--push_to_hub``: refused before anything is written if it cannot work; what is uploaded is the finished run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi
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

    def upload(_: HfApi, *, folder_path: Path, ignore_patterns: list[str] | None, **named: Any) -> None:
        kept = [
            path.name
            for path in folder_path.iterdir()
            if not any(path.match(pattern) for pattern in ignore_patterns or [])
        ]
        is_run = (folder_path / "run.json").exists()
        status = read_record(folder_path)["status"] if is_run else None
        made.append({"folder": folder_path.name, "files": set(kept), "status": status, **named})

    monkeypatch.setattr(HfApi, "whoami", lambda _: {"name": "someone"})
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **__: SimpleNamespace(repo_id=f"someone/{name}"))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    return made


def test_what_is_uploaded_is_the_finished_run(tiny: Tiny, tmp_path: Path, uploads: list[dict[str, Any]]) -> None:
    flags = ("--max_steps", "2", "--save_steps", "1", "--push_to_hub", "--hub_strategy", "end", "--hub_token", "secret")
    assert main(tiny.flags(tmp_path / "run", *flags)) == 0
    (made,) = uploads
    assert made["repo_id"] == "someone/run"
    assert made["status"] == "finished"
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "run.json"} <= made["files"]
    assert not [name for name in made["files"] if name.startswith("checkpoint-") or name.endswith(".bin")]
    assert "secret" not in (tmp_path / "run" / "run.json").read_text()


def test_checkpoints_are_uploaded_complete(tiny: Tiny, tmp_path: Path, uploads: list[dict[str, Any]]) -> None:
    flags = ("--max_steps", "2", "--save_steps", "1", "--push_to_hub", "--hub_strategy", "checkpoint")
    assert main(tiny.flags(tmp_path / "run", *flags)) == 0
    weights, whole = uploads[0], uploads[1]
    assert weights["folder"] == whole["folder"] == "checkpoint-1"
    assert "adapter_model.safetensors" in weights["files"]
    assert "optimizer.pt" not in weights["files"]
    assert "optimizer.pt" in whole["files"]
    assert whole["path_in_repo"] == "last-checkpoint"
    assert uploads[-1]["status"] == "finished"


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
    def upload_folder(*_: Any, **__: Any) -> None:
        raise HubError(503)

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    flags = tiny.flags(tmp_path / "run", "--max_steps", "1", "--push_to_hub", "--hub_strategy", "end")
    assert f"hf upload someone/run {tmp_path / 'run'}" in refused(flags)
    assert read_record(tmp_path / "run")["status"] == "finished"
    assert not uploads
