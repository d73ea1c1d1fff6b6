"""Runs of models that do not keep packed documents apart, or that are not causal language models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.cli import main

TOKENS = {"vocab_size": 400, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 130} | TOKENS
OPT = SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32}
PACKED, UNPACKED = ("--mode", "baseline"), ("--mode", "baseline", "--packing", "none")


@pytest.fixture(scope="module")
def opt(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that builds its masks without positions, and the tokenizer of the tiny model."""
    return save_model(tiny, tmp_path_factory.mktemp("opt") / "model", "opt", OPT)


def save_model(tiny: Tiny, folder: Path, kind: str, settings: dict[str, Any], auto: Any = AutoModelForCausalLM) -> Path:
    torch.manual_seed(0)
    auto.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny.model).save_pretrained(folder)
    return folder


def test_by_default_such_a_model_is_trained_as_with_packing_none(
    tiny: Tiny, opt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny.flags(tmp_path / "default", *PACKED, "--model_path", str(opt))) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "influence" in line]
    assert main(tiny.flags(tmp_path / "none", *UNPACKED, "--model_path", str(opt))) == 0
    default, none = read_record(tmp_path / "default"), read_record(tmp_path / "none")
    assert len(lines) == 1
    assert lines[0].startswith("packed documents influence each other in OPTForCausalLM (logits differ by ")
    assert lines[0].endswith(" of their size); using --packing none")
    assert default["packing"] == {"used": "none", "reason": lines[0].partition(";")[0]}
    assert none["packing"] == {"used": "none", "reason": None}
    assert default["data"] == none["data"]
    for when in ("before", "after"):
        assert default["evaluation"][when]["loss"] == none["evaluation"][when]["loss"]


def test_the_length_of_the_run_is_that_of_the_new_rows(tiny: Tiny, opt: Path, tmp_path: Path) -> None:
    more = ("--model_path", str(opt), "--max_steps", "-1", "--max_train_samples", "14", "--block_size", "128")
    for name, flags in (("default", PACKED), ("none", UNPACKED)):
        assert main(tiny.flags(tmp_path / name, *flags, *more)) == 0
    default, none = read_record(tmp_path / "default"), read_record(tmp_path / "none")
    assert default["arguments"]["num_train_epochs"] == none["arguments"]["num_train_epochs"]
    assert default["speed"]["steps"] == none["speed"]["steps"]


@pytest.mark.parametrize("flow", [[], ["dynamic"]])
def test_packing_that_the_user_requires_is_refused(
    tiny: Tiny, opt: Path, tmp_path: Path, refused: Refused, flow: list[str]
) -> None:
    argv = [*flow, *tiny.flags(tmp_path / "run", "--packing", "best_fit", "--model_path", str(opt))]
    assert refused(argv).startswith("slm-train: --packing best_fit: packed documents influence each other in OPT")
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_the_packing_of_its_beginning(
    tiny: Tiny, opt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tiny.flags(tmp_path / "parts", *PACKED, "--save_steps", "2", "--model_path", str(opt))
    assert main([*parts, "--max_steps", "2"]) == 0
    reason = read_record(tmp_path / "parts")["packing"]["reason"]
    capsys.readouterr()
    assert main([*parts, "--resume_from_checkpoint", "--accept_changes", "max_steps"]) == 0
    assert f"{reason}; continuing with --packing none" in capsys.readouterr().out
    assert read_record(tmp_path / "parts")["packing"] == {"used": "none", "reason": reason}


def test_streamed_rows_fall_back_too(tiny: Tiny, opt: Path, tmp_path: Path) -> None:
    assert main(tiny.flags(tmp_path / "run", "--streaming", *PACKED, "--model_path", str(opt))) == 0
    record = read_record(tmp_path / "run")
    assert record["data"]["train"]["packing"] == record["packing"]["used"] == "none"


def test_a_new_model_falls_back_too(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt", **OPT}))
    flags = ("--from_scratch", str(tmp_path / "config.json"), "--vocab_size", "300", *PACKED)
    assert main(tiny.flags(tmp_path / "run", *flags)) == 0
    assert read_record(tmp_path / "run")["packing"]["used"] == "none"


@pytest.mark.parametrize("flags", [("--mode", "lora"), ("--mode", "qlora"), ("--bf16", "true")])
def test_a_model_that_keeps_documents_apart_is_packed_in_every_mode(
    tiny: Tiny, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    assert main(tiny.flags(tmp_path / "run", "--max_steps", "1", *flags)) == 0
    assert read_record(tmp_path / "run")["packing"] == {"used": "best_fit", "reason": None}


def test_a_dry_run_says_that_packing_is_verified_later(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny.flags(tmp_path / "run", "--dry_run")) == 0
    assert "packing is verified when the model is loaded" in capsys.readouterr().out


@pytest.mark.parametrize("flow", [[], ["dynamic"]])
@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_a_model_that_sees_later_tokens_is_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, flow: list[str], packing: str
) -> None:
    folder = save_model(tiny, tmp_path / "roberta", "roberta", SMALL | {"intermediate_size": 48})
    argv = [*flow, *tiny.flags(tmp_path / "run", "--model_path", str(folder), "--packing", packing)]
    sentence = refused(argv)
    assert "RobertaForCausalLM is not a causal language model: earlier logits change with later tokens" in sentence
    assert "is_decoder" in sentence
    assert not (tmp_path / "run").exists()


T5 = TOKENS | {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}


@pytest.mark.parametrize("flow", [[], ["dynamic"]])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_sequence_to_sequence_model_is_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, flow: list[str], is_new: bool
) -> None:
    folder = save_model(tiny, tmp_path / "t5", "t5", T5, AutoModel)
    new = ("--mode", "baseline", "--from_scratch", str(folder / "config.json"), "--vocab_size", "300")
    flags = new if is_new else ("--model_path", str(folder))
    sentence = refused([*flow, *tiny.flags(tmp_path / "run", *flags)])
    assert sentence.startswith("slm-train: t5 is not a causal language model: it has an encoder")


def test_the_context_of_a_model_for_images_and_text_is_that_of_its_text(
    tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    text = {**SMALL, "intermediate_size": 48, "head_dim": 16, "num_key_value_heads": 1, "sliding_window": 16}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    tokens = {"mm_tokens_per_image": 4, "boi_token_index": 397, "eoi_token_index": 398, "image_token_index": 399}
    settings = {"text_config": text, "vision_config": vision, **tokens}
    folder = save_model(tiny, tmp_path / "gemma", "gemma3", settings)
    argv = tiny.flags(tmp_path / "run", "--model_path", str(folder), "--block_size", "131")
    assert "longer than the 130 tokens of context" in refused(argv)
