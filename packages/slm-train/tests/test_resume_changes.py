"""Resuming with other settings: refused by name, or accepted, effective and recorded."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slm_data import train_tokenizer
from slm_testing.train.budget_runs import dynamic
from slm_testing.train.killing import outcome
from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.checkpoints.files.manifest import write_manifest
from slm_train.checkpoints.run_identity import IDENTITY_NAME, settings_of
from slm_train.checkpoints.setting_changes import find_changes, refuse_changes
from slm_train.cli import main
from slm_train.command_line.known_flags import known_flag_names
from slm_train.command_line.parsing import parse_arguments
from slm_train.errors import TrainError
from slm_train.options.flag_effects import ALL_SETS, CHANGEABLE, EVALUATION, FIXED

FLOWS = pytest.mark.parametrize("flags", [Tiny.flags, dynamic], ids=["trainer", "dynamic"])
# What tests of single flags leave out: the name of the base is compared instead, and some need what is not installed.
SPECIAL = {"model_path", "from_scratch", "deepspeed", "fsdp", "fsdp_config", "parallelism_config", "tf32", *EVALUATION}
VALUES = {
    "mode": "oft", "model_revision": "v2", "seed": "7", "data_seed": "7", "packing": "none", "packing_fill": "0.5",
    "lora_r": "3", "lora_alpha": "3", "use_rslora": "true", "use_dora": "true", "target_modules": "q_proj",
    "modules_to_save": "lm_head", "resize_embeddings": "true", "load_in_4bit": "true", "butterfly_stages": "2",
    "butterfly_block_size": "8", "butterfly_preset": "quality", "butterfly_side": "both", "butterfly_scale": "true",
    "oft_block_size": "8", "optim": "sgd", "optim_args": "a=1", "optim_target_modules": "mlp", "muon": "true",
    "per_device_train_batch_size": "3", "gradient_accumulation_steps": "3", "auto_find_batch_size": "true",
    "train_sampling_strategy": "sequential", "length_column_name": "size", "dataloader_drop_last": "true",
    "dataloader_in_order": "false", "accelerator_config": '{"even_batches": false}',
    "target_tokens_per_step": "777", "max_tokens_per_micro_batch": "777", "fsdp": "full_shard",
    "num_train_epochs": "7", "max_steps": "7", "max_minutes": "7", "learning_rate": "7e-7",
    "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": '{"num_cycles": 2}', "warmup_steps": "7",
    "schedule_in": "tokens", "weight_decay": "0.7", "adam_beta1": "0.7", "adam_beta2": "0.7", "adam_epsilon": "0.7",
    "max_grad_norm": "0.7", "lora_dropout": "0.7", "butterfly_dropout": "0.7", "label_smoothing_factor": "0.7",
    "neftune_noise_alpha": "0.7", "bf16": "true", "fp16": "true", "average_tokens_across_devices": "false",
    "ignore_data_skip": "true",
}  # fmt: skip
NEEDED = {
    "butterfly_block_size": ["--mode", "butterfly_block"],
    "butterfly_stages": ["--mode", "butterfly"],
    "butterfly_preset": ["--mode", "butterfly"],
    "butterfly_side": ["--mode", "butterfly"],
    "butterfly_scale": ["--mode", "butterfly"],
    "oft_block_size": ["--mode", "oft"],
    "muon": ["--mode", "baseline"],
    "lr_scheduler_kwargs": ["--lr_scheduler_type", "cosine_with_restarts"],
}
ONLY_DYNAMIC = {"target_tokens_per_step", "max_tokens_per_micro_batch", "schedule_in"}


def every_flag() -> set[str]:
    names = known_flag_names(dynamic=False) | known_flag_names(dynamic=True)
    return {name for name in names if not (name.startswith("no_") and name[3:] in names)}


def test_what_every_flag_means_for_a_resumed_run_is_decided_once() -> None:
    counts = Counter(name for names in ALL_SETS for name in names)
    assert every_flag() - counts.keys() == set()
    assert {name for name, count in counts.items() if count > 1} == set()


@pytest.mark.parametrize("name", sorted((FIXED | CHANGEABLE) - SPECIAL))
def test_a_changed_flag_is_refused_by_name(name: str) -> None:
    words = [*(["dynamic"] if name in ONLY_DYNAMIC else []), "--bf16", "false", *NEEDED.get(name, [])]
    before = settings_of(parse_arguments(words))
    now = before | settings_of(parse_arguments([*words, "--fp16" if name == "fp16" else f"--{name}", VALUES[name]]))
    if name == "fp16":  # on a CPU it is not used
        now |= {"fp16": True}
    changes = find_changes(before, now)
    assert name in {change.name for change in changes}
    remedy = f"--accept_changes .*{name}" if name in CHANGEABLE else "cannot change within a run"
    with pytest.raises(TrainError, match=rf"--{name} .*{remedy}"):
        refuse_changes(Path("run"), changes, [], keeps_schedule=False)
    if name in CHANGEABLE:
        refuse_changes(Path("run"), changes, [name], keeps_schedule=False)
    else:
        with pytest.raises(TrainError, match=f"--{name}"):
            refuse_changes(Path("run"), changes, [name], keeps_schedule=False)


def test_settings_that_another_version_of_a_library_does_not_have_are_not_compared() -> None:
    recorded = {"accelerator_config": {"split_batches": False, "old": 1}, "optim": "sgd", "max_steps": 4}
    current = {"accelerator_config": {"split_batches": False, "new": 1}, "neftune_noise_alpha": None, "max_minutes": 1}
    assert {change.name for change in find_changes(recorded, current)} == {"max_steps", "max_minutes"}
    changed = current | {"accelerator_config": {"split_batches": True}}
    assert "accelerator_config" in {change.name for change in find_changes(recorded, changed)}


@pytest.fixture(scope="module")
def parts(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the Trainer with checkpoints of its steps 2 and 4."""
    folder = tmp_path_factory.mktemp("parts") / "run"
    assert main(tiny.flags(folder, "--save_steps", "2", "--learning_rate", "1e-3")) == 0
    return folder


@pytest.fixture
def half(parts: Path, tmp_path: Path) -> Path:
    """A copy of that run that ends after step 2."""
    folder = tmp_path / "half"
    shutil.copytree(parts, folder)
    shutil.rmtree(folder / "checkpoint-4")
    return folder


def logged_rates(folder: Path) -> dict[int, float]:
    return {line["step"]: line["learning_rate"] for line in outcome(folder).lines if "loss" in line}


def test_an_accepted_learning_rate_takes_effect_and_is_recorded(
    tiny: Tiny, half: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*tiny.flags(half, "--save_steps", "2", "--learning_rate", "4e-3"), "--resume_from_checkpoint"]
    sentence = refused(command)
    assert "was trained with --learning_rate 0.001, now 0.004; give" in sentence
    assert "--accept_changes learning_rate" in sentence
    assert main([*command, "--accept_changes", "learning_rate"]) == 0
    assert "from step 2 on: --learning_rate 0.001, now 0.004" in capsys.readouterr().out
    assert logged_rates(half) == pytest.approx({1: 1e-3, 2: 7.5e-4, 3: 2e-3, 4: 1e-3})
    record = read_record(half)
    assert record["changes"] == [{"step": 2, "flag": "learning_rate", "before": 0.001, "now": 0.004}]
    assert record["arguments"]["learning_rate"] == 0.004
    assert main(command) == 0  # the run has the new rate now
    assert read_record(half)["changes"] == record["changes"]


def test_an_accepted_setting_of_the_optimizer_replaces_that_of_the_checkpoint(tiny: Tiny, half: Path) -> None:
    flags = tiny.flags(
        half, "--save_steps", "2", "--learning_rate", "1e-3", "--weight_decay", "0.5", "--adam_beta2", "0.9"
    )
    assert main([*flags, "--resume_from_checkpoint", "--accept_changes", "weight_decay", "adam_beta2"]) == 0
    state = torch.load(half / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert max(group["weight_decay"] for group in state["param_groups"]) == 0.5
    assert {tuple(group["betas"]) for group in state["param_groups"]} == {(0.9, 0.9)}
    assert {group["lr"] for group in state["param_groups"]} == {0.0}  # the schedule goes on to its end
    assert [entry["flag"] for entry in read_record(half)["changes"]] == ["adam_beta2", "weight_decay"]


def test_an_accepted_rate_takes_effect_in_the_token_budget_loop(tiny: Tiny, tmp_path: Path) -> None:
    more = ("--lr_scheduler_type", "constant", "--learning_rate")
    assert main(dynamic(tiny, tmp_path, *more, "1e-3", "--max_steps", "2")) == 0
    command = dynamic(tiny, tmp_path, *more, "3e-3", "--weight_decay", "0.1", "--max_steps", "4")
    names = ["--accept_changes", "learning_rate", "max_steps", "weight_decay"]
    assert main([*command, "--resume_from_checkpoint", *names]) == 0
    assert logged_rates(tmp_path) == pytest.approx({1: 1e-3, 2: 1e-3, 3: 3e-3, 4: 3e-3})
    state = torch.load(tmp_path / "dynamic_checkpoint.pt", weights_only=True)
    assert max(group["weight_decay"] for group in state["optimizer"]["param_groups"]) == 0.1


def test_a_finished_run_of_the_trainer_is_extended_as_if_it_had_been_longer_from_the_beginning(
    tiny: Tiny, tmp_path: Path
) -> None:
    more = ("--max_steps", "-1", "--max_train_samples", "12", "--lr_scheduler_type", "constant", "--num_train_epochs")
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    assert main(tiny.flags(whole, *more, "3")) == 0
    assert main(tiny.flags(longer, *more, "1")) == 0
    accepted = ("--resume_from_checkpoint", "--accept_changes", "num_train_epochs")
    assert main([*tiny.flags(longer, *more, "3"), *accepted]) == 0
    assert outcome(longer).weights == outcome(whole).weights
    assert outcome(longer).losses == outcome(whole).losses


def test_a_checkpoint_without_optimizer_state_is_refused_unless_that_is_accepted(
    tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    folder = tmp_path / "run"
    flags = tiny.flags(folder, "--save_steps", "2", "--save_only_model", "--learning_rate", "1e-3")
    assert main(flags) == 0
    shutil.rmtree(folder / "checkpoint-4")
    sentence = refused([*flags, "--resume_from_checkpoint"])
    assert f"{folder / 'checkpoint-2'} has weights but no optimizer state" in sentence
    assert main([*flags, "--resume_from_checkpoint", "--accept_changes", "optimizer_state"]) == 0
    assert logged_rates(folder) == pytest.approx({1: 1e-3, 2: 7.5e-4, 3: 5e-4, 4: 2.5e-4})
    assert read_record(folder)["changes"][0]["flag"] == "optimizer_state"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("lora_r", "choose from"), ("lerning_rate", "did you mean learning_rate"), ("logging_steps", "change nothing")],
)
def test_a_name_that_cannot_be_accepted_is_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, name: str, reason: str
) -> None:
    sentence = refused([*tiny.flags(tmp_path), "--resume_from_checkpoint", "--accept_changes", name])
    assert f"--accept_changes {name}" in sentence
    assert reason in sentence


def test_accepted_changes_of_a_new_run_are_refused(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    sentence = refused(tiny.flags(tmp_path / "run", "--accept_changes", "learning_rate"))
    assert "--resume_from_checkpoint" in sentence


def test_a_rate_cannot_change_under_a_schedule_that_follows_evaluations() -> None:
    before, now = {"learning_rate": 1.0, "bf16": True}, {"learning_rate": 2.0, "bf16": False}
    changes = find_changes(before, now)
    with pytest.raises(TrainError, match=r"--learning_rate 1\.0, now 2\.0, which cannot change"):
        refuse_changes(Path("run"), changes, ["learning_rate", "bf16"], keeps_schedule=True)


def test_a_checkpoint_of_another_folder_is_compared_by_what_it_contains(
    tiny: Tiny, parts: Path, tmp_path: Path, refused: Refused
) -> None:
    flags = tiny.flags(tmp_path / "new", "--learning_rate", "2e-3")
    sentence = refused([*flags, "--resume_from_checkpoint", str(parts / "checkpoint-2")])
    assert "was trained with --learning_rate 0.001, now 0.002" in sentence
    assert not (tmp_path / "new").exists()


def test_other_validation_texts_are_refused(tiny: Tiny, half: Path, refused: Refused) -> None:
    flags = tiny.flags(half, "--learning_rate", "1e-3", "--max_eval_samples", "3")
    sentence = refused([*flags, "--resume_from_checkpoint"])
    assert "other validation data: --max_eval_samples none, now 3" in sentence


def as_earlier_run(folder: Path) -> None:
    """Turn a run into one of slm-train 0.7: few settings in its identity, none in its checkpoints."""
    record = read_record(folder)
    names = ("mode", "seed")
    old = {name: record["arguments"][name] for name in names} | {"base": record["identity"]["base"], "data": "other"}
    (folder / "run.json").write_text(json.dumps(record | {"identity": old}))
    for checkpoint in folder.glob("checkpoint-*"):
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        del state["stateful_callbacks"][IDENTITY_NAME]
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        write_manifest(checkpoint)


def test_a_run_of_an_earlier_version_is_compared_by_what_it_recorded(
    tiny: Tiny, half: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    as_earlier_run(half)
    flags = tiny.flags(half, "--save_steps", "2", "--learning_rate", "1e-3")
    for change, named in (
        (("--weight_decay", "0.5"), "--weight_decay 0.0, now 0.5"),
        (("--max_train_samples", "9"), "--max_train_samples none, now 9"),
    ):
        assert f"was trained with {named}" in refused([*flags, *change, "--resume_from_checkpoint"]).replace(
            "other training data: ", ""
        )
    assert main([*flags, "--resume_from_checkpoint"]) == 0
    assert "was started by an earlier slm-train: only the settings that it recorded" in capsys.readouterr().out


@FLOWS
def test_a_run_that_only_reports_and_saves_otherwise_is_resumed(
    tiny: Tiny, tmp_path: Path, flags: Callable[..., list[str]]
) -> None:
    first: dict[Any, tuple[str, ...]] = {Tiny.flags: ("--save_steps", "2")}
    other: dict[Any, tuple[str, ...]] = {Tiny.flags: ("--save_steps", "1", "--logging_steps", "3")}
    assert main(flags(tiny, tmp_path, *first.get(flags, ()))) == 0
    weights = outcome(tmp_path).weights
    more = other.get(flags, ("--log_interval", "3", "--checkpoint_interval", "2"))
    assert main([*flags(tiny, tmp_path, *more, "--prompt", "Once"), "--resume_from_checkpoint"]) == 0
    assert outcome(tmp_path).weights == weights


def test_another_tokenizer_is_refused_by_its_flag(tiny: Tiny, half: Path, tmp_path: Path, refused: Refused) -> None:
    train_tokenizer(["other words and texts"], 300, model_max_length=128).save_pretrained(tmp_path / "tokenizer")
    flags = tiny.flags(half, "--learning_rate", "1e-3", "--tokenizer_path", str(tmp_path / "tokenizer"))
    sentence = refused([*flags, "--resume_from_checkpoint"])
    assert f"other training data: --tokenizer_path none, now {tmp_path / 'tokenizer'}" in sentence


def test_other_texts_in_a_file_of_the_same_name_are_refused(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_bytes(tiny.texts.read_bytes())
    flags = tiny.flags(tmp_path / "run", "--train_file", str(texts), "--save_steps", "2")
    assert main(flags) == 0
    texts.write_text(tiny.texts.read_text().replace("the", "a"))
    assert "other training data: the content of the files" in refused([*flags, "--resume_from_checkpoint"])
