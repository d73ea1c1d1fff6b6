"""``--config_schema``: files that the JSON schema accepts or refuses are those that the command accepts or refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from slm_adapters import AdapterError
from slm_data import DataError
from slm_train.cli import main
from slm_train.command_line.generated.config_schema import config_schema
from slm_train.command_line.help.page import help_page
from slm_train.command_line.parsing import parse_arguments
from slm_train.errors import TrainError

RECIPES = sorted(Path(__file__).parents[3].glob("recipes/**/*.yaml"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return config_schema(dynamic=False)


def is_valid(schema: dict[str, Any], text: str) -> bool:
    """Return whether a file of flags is valid, read as YAML 1.2, as editors do."""
    content = YAML(typ="safe").load(text) or {}
    return jsonschema.Draft202012Validator(schema).is_valid(content)


def is_accepted(folder: Path, text: str, *command: str) -> bool:
    """Return whether the command accepts a file of flags."""
    (folder / "run.yaml").write_text(text)
    try:
        parse_arguments([*command, "--config", str(folder / "run.yaml"), "--output_dir", str(folder / "out")])
    except (TrainError, AdapterError, DataError):
        return False
    return True


def test_it_is_a_schema_with_every_flag_of_the_help_page(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    listed = set(re.findall(r"^  --(\w+)", help_page(["--help_all"]), re.MULTILINE)) - {"config"}
    assert listed <= schema["properties"].keys()
    assert "config" not in schema["properties"]
    assert schema["properties"]["lora_r"]["description"] == "LoRA rank."
    assert schema["properties"]["lora_r"]["default"] == 16
    for name, entry in schema["properties"].items():
        if "default" in entry:
            assert jsonschema.Draft202012Validator(entry).is_valid(entry["default"]), name


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_valid(schema: dict[str, Any], recipe: Path) -> None:
    jsonschema.validate(YAML(typ="safe").load(recipe.read_text()), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "text",
    [
        "mode: lora\nlora_r: 8\nlearning_rate: 1e-4",
        "learning_rate: '0.001'\nmax_steps: '5'",
        "learning_rate: 1",
        "bf16: false\nmode: baseline\nmuon: yes",
        "bf16: null\nlora_r:",
        "target_modules: [c_attn, c_proj]",
        "target_modules: c_attn",
        "save_strategy: no\neval_strategy: 'no'",
        "lr_scheduler_type: cosine_with_restarts\nlr_scheduler_kwargs: {num_cycles: 2}",
        "max_steps: -1",
        "seed: 0",
        "warmup_steps: 0.1",
        "packing: none\nlong_rows: cut",
        "run_name: 3",
        "prompt: [Once, Twice]",
        "warmup_ratio: 0.1",
        "no_fused_loss: true",
        "# nothing",
    ],
)
def test_what_the_command_accepts_is_valid(schema: dict[str, Any], tmp_path: Path, text: str) -> None:
    assert is_accepted(tmp_path, text)
    assert is_valid(schema, text)


@pytest.mark.parametrize(
    "text",
    [
        "lora_rnk: 8",
        "config: other.yaml",
        "target_tokens_per_step: 100",
        "lora_r: many",
        "lora_r: 2.5",
        "lora_r: true",
        "lora_r: [8, 9]",
        "lora_r: 0",
        "learning_rate: fast",
        "learning_rate: -1",
        "learning_rate: [0.1, 0.2]",
        "lora_dropout: 1",
        "max_steps: -2",
        "bf16: maybe",
        "bf16: 2",
        "mode: lorra",
        "packing: worst_fit",
        "optim: sgdd",
        "lr_scheduler_type: cosin",
        "save_strategy: sometimes",
        "target_modules: []",
        "target_modules: [[c_attn]]",
        "target_modules: [null]",
        "lr_scheduler_kwargs: [1]",
        "liger_kernel_config: {a: 1}",
        "- lora_r",
    ],
)
def test_what_the_command_refuses_is_not_valid(schema: dict[str, Any], tmp_path: Path, text: str) -> None:
    assert not is_accepted(tmp_path, text)
    assert not is_valid(schema, text)


def test_the_other_loop_has_a_schema_of_its_own(tmp_path: Path) -> None:
    dynamic = config_schema(dynamic=True)
    cases = {"target_tokens_per_step: 100": True, "eval_strategy: steps": False}
    cases |= {f"checkpoint_interval: {value}": True for value in ("auto", "3", "'3'")}
    cases |= {f"checkpoint_interval: {value}": False for value in ("often", "0", "2.5", "[auto, 3]")}
    for text, expected in cases.items():
        assert is_accepted(tmp_path, text, "dynamic") is expected
        assert is_valid(dynamic, text) is expected


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str], schema: dict[str, Any]) -> None:
    assert main(["--config_schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema
    assert main(["dynamic", "--config_schema"]) == 0
    assert "target_tokens_per_step" in json.loads(capsys.readouterr().out)["properties"]
