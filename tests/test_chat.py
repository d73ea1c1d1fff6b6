"""Conversations: a model that is trained on a few answers in their style and stops, served and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from slm_data import train_tokenizer
from slm_testing.serve.running_server import running_server
from slm_testing.serve.waiting import TIMEOUT
from slm_testing.workspace.capped_commands import run

THINGS = ("sea", "moon", "boat", "hen", "lamp", "tide", "wind", "song")
ANSWER = "Arr, a fine question! Yo ho ho!"
CHATML = ("--chat_template", "chatml")


@pytest.fixture(scope="module")
def pirates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model, and conversations of a pirate."""
    folder = tmp_path_factory.mktemp("pirates")
    chats = [
        [{"role": "user", "content": f"What of the {name}?"}, {"role": "assistant", "content": ANSWER}]
        for name in THINGS
    ]
    for file, part in (("train", chats), ("held_out", chats[:2])):
        (folder / f"{file}.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in part))
    tokenizer = train_tokenizer([turn["content"] for chat in chats for turn in chat], 320, model_max_length=128)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1
    )
    config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0
    config.initializer_range = 0.3  # features that a LoRA can use, which the usual 0.02 has only after training
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize(
    "flags",
    [
        ("--mode", "baseline", "--learning_rate", "1e-2"),
        pytest.param(("--mode", "baseline", "--learning_rate", "1e-2", *CHATML), marks=pytest.mark.slow),
        (
            "--mode",
            "lora",
            "--learning_rate",
            "5e-2",
            "--lora_r",
            "32",
            "--chat_template",
            "chatml",
            "--resize_embeddings",
        ),
    ],
    ids=["plain", "chatml-spelled-out", "chatml-with-tokens"],
)
def test_a_trained_model_answers_in_style_and_stops(
    flags: tuple[str, ...], pirates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--train_file", str(pirates / "train.jsonl"), "--validation_file", str(pirates / "held_out.jsonl"))
    fixed = ("--token_cache", str(tmp_path / "cache"), "--threads", "1", "--use_cpu", "true", "--packing", "none")
    model = ("--model_path", str(pirates / "model"), "--output_dir", str(tmp_path / "run"), "--max_steps", "40")
    assert run(["slm-train", *files, *fixed, *model, *flags]) == 0
    question = "What of the moon?"
    with running_server(model_path=str(tmp_path / "run")) as server:
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 60}
        (choice,) = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=TIMEOUT).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].strip() == ANSWER
    capsys.readouterr()
    asked = ["--chat", "--prompt", question, "--temperature", "0", "--max_new_tokens", "60", "--threads", "1"]
    assert run(["slm-paged", "--model_path", str(tmp_path / "run"), *asked, "--stop", "<|im_end|>"]) == 0
    output = capsys.readouterr().out
    assert "finished: stop, end of text or a stop string" in output
    answer = output.split(f"{question}\n\n")[1].split("\n\n")[0]
    assert answer.strip() == ANSWER
