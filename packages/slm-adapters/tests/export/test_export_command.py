"""``slm-adapters export`` on the command line, and adapters alone."""

import time
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest
import torch

from slm_adapters import export_gguf, export_gguf_adapter, load
from slm_adapters.cli import main
from slm_testing.adapters.tiny_adapters import adapted, edit_json, logits, refusal, with_lora
from slm_testing.export_models import byte_level_tokenizer, save_tiny_model, tiny_model

IDS = torch.arange(4, 30)[None]


def save_adapter(folder: Path, method: str, name: str = "llama") -> Path:
    """Save a base and a random adapter of it; return the adapter's folder."""
    base = save_tiny_model(folder / "base", name)
    model = adapted(tiny_model(name), method)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder / "run", save_embedding_layers=False)
    byte_level_tokenizer().save_pretrained(folder / "run")
    return folder / "run"


@pytest.mark.parametrize("method", ["lora", "butterfly"])
def test_an_adapter_is_merged_and_the_commands_are_printed(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = save_adapter(tmp_path, method), tmp_path / "My stories"
    capsys.readouterr()
    assert main(["export", str(run), str(out), "--to", "gguf", "--dtype", "f32"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    lines = output.out.splitlines()
    assert lines[0].startswith(f"exported {run}: {out / 'My stories-f32.gguf'}, f32, ")
    assert "logits of the file (read back with transformers) compared with the model, " in lines[1]
    assert lines[3] == f"Ollama     ollama create my-stories -f '{out}/Modelfile' && ollama run my-stories"
    assert lines[4] == f"llama.cpp  llama-cli -m '{out}/My stories-f32.gguf' -no-cnv -p 'Once upon a time'"
    merged = load(run, run, merge=True).model
    torch.testing.assert_close(logits(load(out / "My stories-f32.gguf").model, IDS), logits(merged, IDS))


def test_what_is_in_the_folder_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = save_tiny_model(tmp_path / "model", "gpt2"), tmp_path / "out"
    export_gguf(model, out)
    assert "is not empty; give another folder, or --overwrite" in refusal(capsys, "export", model, out)
    export_gguf(model, out, dtype="f32", overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["Modelfile", "out-f32.gguf"]
    (out / "thesis.txt").write_text("mine")
    assert "it holds thesis.txt" in refusal(capsys, "export", model, out, "--overwrite")
    assert "must be a folder" in refusal(capsys, "export", model, tmp_path / "a.gguf")


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_model(tmp_path / "model", "gpt2")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slm_adapters.export.gguf_writer.encode", full)
    with pytest.raises(ValueError, match=r"cannot write .*No space left on device; give a folder on another disk"):
        export_gguf(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_without_the_package_gguf_the_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("slm_adapters.base.gguf.file.find_spec", lambda _: None)
    assert "exporting to GGUF needs the package gguf" in refusal(capsys, "export", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "phi3"])
def test_a_lora_adapter_alone_gives_the_updates_of_the_weights(name: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    run = save_adapter(tmp_path, "lora", name)
    exported: Any = export_gguf_adapter(run, tmp_path / "out", dtype="f32")
    reader = gguf.GGUFReader(exported.file)
    keys = {key: field.contents() for key, field in reader.fields.items()}
    assert (keys["general.type"], keys["adapter.type"], keys["adapter.lora.alpha"]) == ("adapter", "lora", 8.0)
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    before, after = (
        {tensor.name: torch.tensor(tensor.data) for tensor in gguf.GGUFReader(written.file).tensors}
        for written in (
            export_gguf(tmp_path / "base", tmp_path / "before", dtype="f32"),
            export_gguf(run, tmp_path / "after", dtype="f32"),
        )
    )
    changed = {weight for weight in before if not torch.equal(before[weight], after[weight])}
    assert changed == {tensor.removesuffix(".lora_a") for tensor in tensors if tensor.endswith("a")}
    for weight in changed:
        a, b = tensors[f"{weight}.lora_a"], tensors[f"{weight}.lora_b"]
        update = b @ a * (keys["adapter.lora.alpha"] / len(a))  # what llama.cpp computes
        torch.testing.assert_close(before[weight] + update, after[weight], atol=1e-5, rtol=1e-4)


def test_scales_that_differ_between_layers_are_in_the_matrices(tmp_path: Path) -> None:
    run = save_adapter(tmp_path, "lora")
    edit_json(run / "adapter_config.json", use_rslora=True, alpha_pattern={"q_proj": 4})
    exported: Any = export_gguf_adapter(run, tmp_path / "out", dtype="f32")
    tensors = {t.name: torch.tensor(t.data) for t in pytest.importorskip("gguf").GGUFReader(exported.file).tensors}
    model: Any = with_lora(tiny_model("llama"))
    layer = model.base_model.model.model.layers[0].self_attn
    for name, lora, alpha in (("attn_v", layer.v_proj, 8), ("attn_q", layer.q_proj, 4)):
        expected = lora.lora_B["default"].weight.norm() * (alpha / 4**0.5) / (8 / 4)
        torch.testing.assert_close(tensors[f"blk.0.{name}.weight.lora_b"].norm(), expected)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peft_type": "BUTTERFLY"}, "GGUF has adapters of LoRA only, .* is one of butterfly; export it without"),
        ({"use_dora": True}, "cannot have use_dora"),
        ({"modules_to_save": ["lm_head"]}, "cannot have modules_to_save"),
        ({"bias": "all"}, r"trained biases \(bias='all'\)"),
        ({"init_lora_weights": "pissa"}, r"changes the weights of its base \(init_lora_weights='pissa'\)"),
    ],
)
def test_adapters_that_gguf_cannot_express_are_refused(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    run = save_adapter(tmp_path, "lora")
    edit_json(run / "adapter_config.json", **settings)
    with pytest.raises(ValueError, match=reason):
        export_gguf_adapter(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_hub_that_cannot_be_reached_is_one_sentence_without_retries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s to try again"))
    assert "the hub at http://127.0.0.1:9 cannot be reached" in refusal(capsys, "export", "me/model", tmp_path / "out")
