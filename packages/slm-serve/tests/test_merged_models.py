"""Merged models in a cache: made once, by what they are made of, and checked."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from slm_adapters import ModelFolder as Folder
from slm_adapters import load
from slm_adapters import read_model_folder as read_folder
from slm_serve.backends import merged_models as merged
from slm_serve.backends.merged_models import RECORD, key, merged_model
from slm_serve.errors import StartError
from slm_testing.serve.small_models import BUTTERFLY, lora, save_adapter, save_base

IDS = torch.tensor([[5, 60, 700, 8, 9]])
CASES = {
    "butterfly-of-llama": ("llama", BUTTERFLY),
    "butterfly-of-gpt2": ("gpt2", BUTTERFLY),
    "lora-of-llama": ("llama", lora()),
    "lora-of-gpt2": ("gpt2", lora(target_modules=["c_attn"])),
}


@pytest.fixture
def base(tmp_path: Path) -> Folder:
    return read_folder(save_base(tmp_path / "base"))


@pytest.fixture
def adapter(tmp_path: Path, base: Folder) -> Folder:
    return read_folder(save_adapter(tmp_path / "adapter", base.path, BUTTERFLY))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize(("kind", "config"), CASES.values(), ids=CASES)
def test_the_merged_folder_answers_as_the_adapter_on_its_base(tmp_path: Path, kind: str, config: Any) -> None:
    base = save_base(tmp_path / "base", kind)
    adapter = save_adapter(tmp_path / "adapter", base, config)
    found = merged_model(read_folder(base), read_folder(adapter), tmp_path / "cache")
    plain = AutoModelForCausalLM.from_pretrained(found.folder, dtype=torch.float32)
    wanted, alone = logits(load(base, adapter, device="cpu").model), logits(load(base, device="cpu").model)
    assert (logits(plain) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (logits(plain) - alone).abs().max() > 0.01 * wanted.abs().max()
    assert AutoTokenizer.from_pretrained(found.folder)("Once")["input_ids"]


def test_a_base_alone_can_be_exported(tmp_path: Path, base: Folder) -> None:
    found = merged_model(base, None, tmp_path / "cache")
    assert torch.equal(logits(load(found.folder, device="cpu").model), logits(load(base.path, device="cpu").model))


def test_it_is_made_once(tmp_path: Path, base: Folder, adapter: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = merged_model(base, adapter, tmp_path / "cache")
    monkeypatch.setattr(merged, "load", None)  # loads nothing any more
    again = merged_model(base, adapter, tmp_path / "cache")
    assert not first.reused
    assert again.reused
    assert again.folder == first.folder


def test_the_same_files_elsewhere_are_the_same_model(tmp_path: Path, base: Folder, adapter: Folder) -> None:
    before = key(base, adapter)
    moved = base.path.rename(tmp_path / "elsewhere")
    os.utime(moved / "config.json", (1, 1))
    assert key(read_folder(moved), adapter) == before


def test_a_retrained_adapter_is_merged_anew(tmp_path: Path, base: Folder, adapter: Folder) -> None:
    first = merged_model(base, adapter, tmp_path / "cache")
    weights = load_file(adapter.weights[0])
    save_file({name: value + 0.01 for name, value in weights.items()}, adapter.weights[0], {"format": "pt"})
    second = merged_model(base, read_folder(adapter.path), tmp_path / "cache")
    assert second.folder != first.folder
    assert first.folder.is_dir()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_another_base_or_tokenizer_gives_another_key(base: Folder, adapter: Folder, name: str) -> None:
    before = key(base, adapter)
    file = base.path / name
    file.write_bytes(file.read_bytes() + b" ")
    assert key(base, adapter) != before


def test_settings_of_the_adapter_belong_to_the_key(base: Folder, adapter: Folder) -> None:
    before = key(base, adapter)
    config = adapter.path / "adapter_config.json"
    config.write_text(config.read_text().replace('"strength": 1.0', '"strength": 0.5'))
    assert key(base, adapter) != before
    assert key(base, None) != before


@pytest.mark.parametrize("damage", ["flipped", "cut", "lacking", "no-record", "broken-record"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, base: Folder, adapter: Folder, damage: str) -> None:
    entry = merged_model(base, adapter, tmp_path / "cache").folder
    weights, record = entry / "model.safetensors", entry / RECORD
    whole = weights.read_bytes()
    if damage == "flipped":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "cut":
        weights.write_bytes(whole[:-100])
    elif damage == "lacking":
        (entry / "tokenizer.json").unlink()
    elif damage == "no-record":
        record.unlink()
    else:
        record.write_text("{")
    again = merged_model(base, adapter, tmp_path / "cache")
    assert not again.reused
    assert again.folder == entry
    assert weights.read_bytes() == whole
    assert merged_model(base, adapter, tmp_path / "cache").reused


def test_what_differs_by_more_than_rounding_is_refused_and_not_kept(
    tmp_path: Path, base: Folder, adapter: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bent(folder: Path, like: Any) -> Any:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.lm_head.weight.data *= 1.1
        return model

    monkeypatch.setattr(merged, "reload", bent)
    with pytest.raises(StartError, match="more than rounding explains"):
        merged_model(base, adapter, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_logits_that_are_no_numbers_are_refused(
    tmp_path: Path, base: Folder, adapter: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "logits", lambda model, ids: torch.full((5, 7), torch.nan))
    with pytest.raises(StartError, match="more than rounding explains"):
        merged_model(base, adapter, tmp_path / "cache")


def test_a_merge_that_breaks_off_leaves_nothing(
    tmp_path: Path, base: Folder, adapter: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merged, "_record", broken)
    with pytest.raises(StartError, match=r"No space left on device.*give another --merged_path"):
        merged_model(base, adapter, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_faster_of_two_processes_keeps_its_entry(
    tmp_path: Path, base: Folder, adapter: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = merged_model(base, adapter, tmp_path / "cache")
    born = (first.folder / RECORD).stat().st_ino
    answers = iter([False])  # as it was before the other one had finished
    monkeypatch.setattr(merged, "_is_whole", lambda entry: next(answers, True))
    assert not merged_model(base, adapter, tmp_path / "cache").reused
    assert (first.folder / RECORD).stat().st_ino == born
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [first.folder.name]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, base: Folder, adapter: Folder) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file"):
        merged_model(base, adapter, tmp_path / "file" / "cache")
