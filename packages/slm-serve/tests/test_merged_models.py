"""The cache of merged models: keys, checks, damaged entries, and where it is."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from slm_adapters import ModelFolder, load, read_model_folder
from slm_serve.backends import merged_models
from slm_serve.backends.merged_models import RECORD_FILE, cache_key, default_cache_dir, merged_model
from slm_serve.errors import StartError
from slm_testing.serve.small_models import BUTTERFLY, lora_config, save_adapter, save_base

IDS = torch.tensor([[5, 60, 700, 8, 9]])
CASES = {
    "butterfly-of-llama": ("llama", BUTTERFLY),
    "butterfly-of-gpt2": ("gpt2", BUTTERFLY),
    "lora-of-llama": ("llama", lora_config()),
    "lora-of-gpt2": ("gpt2", lora_config(target_modules=["c_attn"])),
}


@pytest.fixture
def base(tmp_path: Path) -> ModelFolder:
    return read_model_folder(save_base(tmp_path / "base"))


@pytest.fixture
def adapter(tmp_path: Path, base: ModelFolder) -> ModelFolder:
    return read_model_folder(save_adapter(tmp_path / "adapter", base.path, BUTTERFLY))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS).logits
    return result


@pytest.mark.parametrize(("kind", "config"), CASES.values(), ids=CASES)
def test_the_merged_model_has_the_logits_of_the_adapter_on_its_base(tmp_path: Path, kind: str, config: Any) -> None:
    base = save_base(tmp_path / "base", kind)
    adapter = save_adapter(tmp_path / "adapter", base, config)
    merged = merged_model(read_model_folder(base), read_model_folder(adapter), tmp_path / "cache")
    model = AutoModelForCausalLM.from_pretrained(merged.folder, dtype=torch.float32)
    expected, unadapted = logits(load(base, adapter, device="cpu").model), logits(load(base, device="cpu").model)
    assert (logits(model) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (logits(model) - unadapted).abs().max() > 0.01 * expected.abs().max()
    assert AutoTokenizer.from_pretrained(merged.folder)("Once")["input_ids"]


def test_a_base_can_be_saved_without_an_adapter(tmp_path: Path, base: ModelFolder) -> None:
    merged = merged_model(base, None, tmp_path / "cache")
    assert torch.equal(logits(load(merged.folder, device="cpu").model), logits(load(base.path, device="cpu").model))


def test_a_model_is_merged_once(
    tmp_path: Path, base: ModelFolder, adapter: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = merged_model(base, adapter, tmp_path / "cache")
    monkeypatch.setattr(merged_models, "load", None)  # must not be called again
    again = merged_model(base, adapter, tmp_path / "cache")
    assert not first.reused
    assert again.reused
    assert again.folder == first.folder


def test_the_same_files_in_another_folder_have_the_same_key(
    tmp_path: Path, base: ModelFolder, adapter: ModelFolder
) -> None:
    before = cache_key(base, adapter)
    moved = base.path.rename(tmp_path / "elsewhere")
    os.utime(moved / "config.json", (1, 1))
    assert cache_key(read_model_folder(moved), adapter) == before


def test_a_retrained_adapter_is_merged_again(tmp_path: Path, base: ModelFolder, adapter: ModelFolder) -> None:
    first = merged_model(base, adapter, tmp_path / "cache")
    weights = load_file(adapter.weights[0])
    save_file({name: value + 0.01 for name, value in weights.items()}, adapter.weights[0], {"format": "pt"})
    second = merged_model(base, read_model_folder(adapter.path), tmp_path / "cache")
    assert second.folder != first.folder
    assert first.folder.is_dir()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_another_base_or_tokenizer_has_another_key(base: ModelFolder, adapter: ModelFolder, name: str) -> None:
    before = cache_key(base, adapter)
    file = base.path / name
    file.write_bytes(file.read_bytes() + b" ")
    assert cache_key(base, adapter) != before


def test_other_settings_of_the_adapter_have_another_key(base: ModelFolder, adapter: ModelFolder) -> None:
    before = cache_key(base, adapter)
    config = adapter.path / "adapter_config.json"
    config.write_text(config.read_text().replace('"strength": 1.0', '"strength": 0.5'))
    assert cache_key(base, adapter) != before
    assert cache_key(base, None) != before


@pytest.mark.parametrize("damage", ["flipped-bit", "truncated", "missing-file", "no-record", "broken-record"])
def test_a_damaged_entry_is_rebuilt(tmp_path: Path, base: ModelFolder, adapter: ModelFolder, damage: str) -> None:
    entry = merged_model(base, adapter, tmp_path / "cache").folder
    weights, record = entry / "model.safetensors", entry / RECORD_FILE
    intact = weights.read_bytes()
    if damage == "flipped-bit":
        weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    elif damage == "truncated":
        weights.write_bytes(intact[:-100])
    elif damage == "missing-file":
        (entry / "tokenizer.json").unlink()
    elif damage == "no-record":
        record.unlink()
    else:
        record.write_text("{")
    again = merged_model(base, adapter, tmp_path / "cache")
    assert not again.reused
    assert again.folder == entry
    assert weights.read_bytes() == intact
    assert merged_model(base, adapter, tmp_path / "cache").reused


def test_a_merge_that_differs_by_more_than_rounding_errors_is_rejected_and_not_kept(
    tmp_path: Path, base: ModelFolder, adapter: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reload_changed(folder: Path, like: Any) -> Any:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.lm_head.weight.data *= 1.1
        return model

    monkeypatch.setattr(merged_models, "reload_model", reload_changed)
    with pytest.raises(StartError, match="more than rounding errors explain"):
        merged_model(base, adapter, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_logits_that_are_not_numbers_are_rejected(
    tmp_path: Path, base: ModelFolder, adapter: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_models, "probe_logits", lambda model, ids: torch.full((5, 7), torch.nan))
    with pytest.raises(StartError, match="more than rounding errors explain"):
        merged_model(base, adapter, tmp_path / "cache")


def test_a_merge_that_fails_leaves_no_files(
    tmp_path: Path, base: ModelFolder, adapter: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merged_models, "_write_record", disk_full)
    with pytest.raises(StartError, match=r"No space left on device.*give another --merged_path"):
        merged_model(base, adapter, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_entry_of_the_faster_of_two_processes_is_kept(
    tmp_path: Path, base: ModelFolder, adapter: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = merged_model(base, adapter, tmp_path / "cache")
    inode = (first.folder / RECORD_FILE).stat().st_ino
    results = iter([False])  # the state before the other process has finished
    monkeypatch.setattr(merged_models, "_is_intact", lambda entry: next(results, True))
    assert not merged_model(base, adapter, tmp_path / "cache").reused
    assert (first.folder / RECORD_FILE).stat().st_ino == inode
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [first.folder.name]


def test_a_cache_that_cannot_be_written_is_reported_with_its_path(
    tmp_path: Path, base: ModelFolder, adapter: ModelFolder
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file"):
        merged_model(base, adapter, tmp_path / "file" / "cache")


def test_the_default_cache_is_in_the_cache_folder_of_slm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("SLM_CACHE", raising=False)
    assert default_cache_dir() == tmp_path / "user" / "slm" / "merged"
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "slm"))
    assert default_cache_dir() == tmp_path / "slm" / "merged"
