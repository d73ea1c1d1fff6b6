"""``slm-adapters inspect`` describes what the files contain."""

import json
from pathlib import Path
from typing import Any

import pytest

from slm_adapters import Rotation
from slm_adapters.cli import main
from slm_adapters.inspection.description import rotation_of_shape
from slm_testing.adapters.tiny_adapters import MakeModel, Save, refusal, with_butterfly, with_lora


def message(capsys: pytest.CaptureFixture[str], folder: Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["inspect", str(folder), "--json"]) == 0
    actual: dict[str, Any] = json.loads(capsys.readouterr().out)
    return actual


def test_inspect_describes_lora_without_its_base(
    base: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base.rename(tmp_path / "gone")
    actual = message(capsys, run)
    assert (actual["method"], actual["base"], actual["r"], actual["lora_alpha"]) == ("LoRA", str(base), 4, 8)
    assert (actual["targets"], actual["layers"]) == (["c_attn", "c_fc", "c_proj"], 8)
    sizes = [(64, 192), (64, 64), (64, 256), (256, 64)]
    assert actual["parameters"] == 2 * 4 * sum(map(sum, sizes))
    assert actual["bytes"] == (run / "adapter_model.safetensors").stat().st_size
    assert main(["inspect", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "method        LoRA" in lines
    assert {"alpha         8", "layers        8", "parameters    8,192"} < set(lines)


def test_inspect_recognises_qlora_by_its_run_record(
    tiny: MakeModel, save: Save, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message(capsys, save(with_lora(tiny("gpt2")), "qlora"))["method"] == "QLoRA"


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({}, "butterfly (full width)"),
        ({"side": "both", "scale": True}, "butterfly (full width)"),
        ({"block_size": 16, "stages": 5}, "butterfly (blocks of 16)"),
        ({"stages": 3, "strength": 0.5}, "butterfly (full width)"),
    ],
    ids=str,
)
def test_inspect_lists_each_rotation_as_in_the_model(
    tiny: MakeModel, save: Save, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], method: str
) -> None:
    adapted = with_butterfly(tiny("gpt2"), **settings)
    run = save(adapted)
    actual = message(capsys, run)
    assert actual["method"] == method
    rows = {(row["layer"], row["side"]): row for row in actual["layers"]}
    layers: Any = adapted.base_model
    expected = [(where, *part) for where, layer in layers.butterfly_layers() for part in layer.angles("default")]
    assert len(rows) == len(expected) > 0
    for where, side, rotation, angles in expected:
        row = rows[where, side]
        assert (row["width"], row["block"], row["stages"]) == (rotation.width, rotation.block_size, rotation.stages)
        assert row["angles"] == angles.numel()
        largest = angles.detach().abs().max().rad2deg() * settings.get("strength", 1)
        assert row["largest_angle"] == pytest.approx(float(largest), rel=1e-5)
    assert main(["inspect", str(run)]) == 0
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert len(table) == 1 + len(rows)
    assert table[0].split() == ["layer", "side", "width", "block", "stages", "angles", "largest", "angle"]


@pytest.mark.parametrize("width", [64, 96, 128, 288, 320, 384, 512, 576, 768, 896, 960, 1024, 1280, 1536, 2304, 3072])
def test_the_width_is_inferred_from_the_number_of_angles(width: int) -> None:
    rotation = Rotation.of(width)
    assert rotation_of_shape(rotation.angle_shape, None, None) == rotation


def test_inspect_describes_a_whole_model(base: Path, tiny: MakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    actual = message(capsys, base)
    assert (actual["method"], actual["architecture"], actual["dtypes"]) == ("full model", "GPT2LMHeadModel", ["F32"])
    assert actual["parameters"] == sum(weight.numel() for weight in tiny("gpt2").parameters())


def test_inspect_refuses_what_load_refuses(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in refusal(capsys, "inspect", tmp_path / "nothing")
    config = run / "adapter_config.json"
    config.write_text(config.read_text().replace('"LORA"', '"MAGIC"'))
    assert "method 'MAGIC', which PEFT" in refusal(capsys, "inspect", run)
    weights = run / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "damaged or cut short" in refusal(capsys, "inspect", run)
