"""``slm-train`` through its command line: run folders of each mode, evaluation and logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer import safe_globals

from slm_adapters import load
from slm_testing.train.tiny_runs import Tiny, read_record
from slm_train.cli import main


def train(tiny: Tiny, folder: Path, *more: str) -> None:
    assert main(tiny.flags(folder, *more)) == 0


@pytest.mark.parametrize("packing", ["best_fit", "concat", "none"])
def test_a_baseline_run_leaves_a_folder_that_transformers_alone_can_load(
    tiny: Tiny, tmp_path: Path, packing: str
) -> None:
    train(tiny, tmp_path / "run", "--mode", "baseline", "--packing", packing, "--learning_rate", "1e-2")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record["status"] == "finished"
    assert record["evaluation"]["after"]["loss"] < record["evaluation"]["before"]["loss"]
    assert model.config.use_cache is True
    assert tokenizer.decode(tokenizer("a tide")["input_ids"], skip_special_tokens=True) == "a tide"


def test_a_lora_run_leaves_an_adapter_that_peft_alone_can_load(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny, tmp_path / "run", "--mode", "lora", "--target_modules", "c_attn", "c_proj", "--lora_r", "4")
    base = AutoModelForCausalLM.from_pretrained(tiny.model)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "run"))
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["c_attn", "c_proj"]
    assert config["base_model_name_or_path"] == str(tiny.model)
    assert (
        sum(p.numel() for n, p in adapted.named_parameters() if "lora" in n)
        == read_record(tmp_path / "run")["parameters"]["trainable"]
    )


@pytest.mark.parametrize(
    ("flags", "block", "side", "scale"),
    [
        (("butterfly", "--butterfly_stages", "6"), None, "auto", False),
        (("butterfly_block", "--butterfly_block_size", "8", "--butterfly_stages", "3"), 8, "auto", False),
        (("butterfly_block",), 16, "auto", False),
        (("butterfly", "--butterfly_preset", "quality"), None, "both", True),
        (("butterfly", "--butterfly_preset", "quality", "--butterfly_scale", "false"), None, "both", False),
        (("butterfly", "--butterfly_side", "input", "--butterfly_scale"), None, "input", True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_butterfly_run_leaves_a_rotation_that_peft_can_load(
    tiny: Tiny, tmp_path: Path, flags: tuple[str, ...], block: int | None, side: str, scale: bool
) -> None:
    train(tiny, tmp_path / "run", "--mode", *flags, "--learning_rate", "3e-2", "--target_modules", "c_attn", "c_proj")
    record = read_record(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["block_size"]) == ("BUTTERFLY", block)
    assert (config["side"], config["scale"]) == (side, scale)
    assert record["evaluation"]["after"]["loss"] < record["evaluation"]["before"]["loss"]
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny.model), str(tmp_path / "run"))
    angles = [p for n, p in adapted.named_parameters() if "butterfly_" in n]
    assert sum(p.numel() for p in angles) == record["parameters"]["trainable"]
    assert all(bool(p.any()) for p in angles)


def test_a_butterfly_trains_over_a_4_bit_base_and_is_loaded_over_one(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny, tmp_path / "run", "--mode", "butterfly", "--load_in_4bit", "--learning_rate", "3e-2")
    evaluation = read_record(tmp_path / "run")["evaluation"]
    assert evaluation["after"]["loss"] < evaluation["before"]["loss"]
    loaded = load(tmp_path / "run")
    layer = loaded.model.get_submodule("base_model.model.transformer.h.0.attn.c_attn.base_layer")
    assert type(layer).__name__ == "Linear4bit"


def test_a_qlora_run_trains_a_4_bit_base(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny, tmp_path / "run", "--mode", "qlora", "--learning_rate", "1e-2", "--max_steps", "8")
    record = read_record(tmp_path / "run")
    assert record["evaluation"]["after"]["loss"] < record["evaluation"]["before"]["loss"]
    config = AutoModelForCausalLM.from_pretrained(tiny.model)
    assert record["parameters"]["total"] - record["parameters"]["trainable"] == sum(
        p.numel() for p in config.parameters()
    )


def test_nothing_in_a_run_folder_is_a_pickle_that_runs_code(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny, tmp_path / "run", "--mode", "lora", "--save_steps", "2")
    assert not list((tmp_path / "run").rglob("training_args.bin"))
    states = [file for file in (tmp_path / "run").rglob("*") if file.suffix in (".pt", ".pth", ".bin")]
    assert states
    with safe_globals():  # numpy's arrays, as the Trainer itself allows them for the random state
        for file in states:
            torch.load(file, weights_only=True)


def test_evaluation_counts_every_token_the_same_whatever_the_batch(tiny: Tiny, tmp_path: Path) -> None:
    losses = []
    for batch in ("1", "5"):
        train(
            tiny,
            tmp_path / batch,
            "--packing",
            "none",
            "--per_device_eval_batch_size",
            batch,
            "--max_steps",
            "1",
        )
        losses.append(read_record(tmp_path / batch)["evaluation"]["before"])
    assert losses[0]["tokens"] == losses[1]["tokens"]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-6)


def test_bits_per_byte_are_the_documents_own(tiny: Tiny, tmp_path: Path) -> None:
    """Recomputed without any of our code: nats of all tokens after the first, over bytes of the texts."""
    train(
        tiny,
        tmp_path / "run",
        "--packing",
        "none",
        "--block_size",
        "128",
        "--max_steps",
        "1",
        "--max_eval_samples",
        "3",
    )
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny.model),
        AutoTokenizer.from_pretrained(tiny.model),
    )
    nats, size = 0.0, 0
    for text in tiny.held_out.read_text().split("\n\n\n")[:3]:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        size += len(text.encode())
        pieces = [ids[start : start + 128] for start in range(0, len(ids), 128)]
        for piece in pieces:
            logits = model(torch.tensor([piece])).logits[0, :-1]
            nats += torch.nn.functional.cross_entropy(logits, torch.tensor(piece[1:]), reduction="sum").item()
    evaluation = read_record(tmp_path / "run")["evaluation"]["before"]
    documents_tokens = sum(len(tokenizer(t)["input_ids"]) for t in tiny.held_out.read_text().split("\n\n\n")[:3])
    expected = nats / evaluation["tokens"] * documents_tokens / size / torch.log(torch.tensor(2.0)).item()
    assert evaluation["bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_every_logged_step_is_a_line_of_metrics(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny, tmp_path / "run", "--eval_strategy", "steps", "--eval_steps", "2")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    evaluated = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 2, 4]  # the last once, not again at the end
    evaluations = read_record(tmp_path / "run")["evaluation"]
    assert [evaluations[when]["loss"] for when in ("before", "after")] == [evaluated[0], evaluated[4]]


def test_the_best_weights_are_evaluated_again(tiny: Tiny, tmp_path: Path) -> None:
    more = "--eval_strategy steps --eval_steps 1 --save_strategy steps --save_steps 1 --load_best_model_at_end"
    worsening = "--mode baseline --learning_rate 1 --warmup_steps 4"
    train(tiny, tmp_path / "run", *more.split(), *worsening.split())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line and line["step"] > 0][:4]  # less the last look
    assert min(losses) < losses[-1]
    assert read_record(tmp_path / "run")["evaluation"]["after"]["loss"] == min(losses)


def test_a_new_model_is_trained_from_random_weights(tiny: Tiny, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}))
    more = (
        "--mode",
        "baseline",
        "--from_scratch",
        str(config),
        "--vocab_size",
        "300",
        "--muon",
        "--learning_rate",
        "1e-2",
    )
    train(tiny, tmp_path / "run", *more)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert model.config.vocab_size == 300
    assert len(AutoTokenizer.from_pretrained(tmp_path / "run")) == 300


def test_an_unused_part_of_a_folder_survives_overwriting(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny, tmp_path / "run", "--mode", "lora")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    train(tiny, tmp_path / "run", "--mode", "baseline", "--overwrite_output_dir")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "run" / "adapter_config.json").exists()


def test_streamed_rows_train_like_stored_ones(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny, tmp_path / "run", "--streaming", "--max_steps", "3", "--learning_rate", "1e-2")
    record = read_record(tmp_path / "run")
    assert record["speed"]["steps"] == 3
    assert record["evaluation"]["after"]["loss"] < record["evaluation"]["before"]["loss"]
