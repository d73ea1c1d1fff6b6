"""Errors of a user: exit code 2, one sentence, no folder left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_testing.forked import run
from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train.cli import main


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--mode", "lorra"), "unknown mode 'lorra'; did you mean lora?"),
        (("--mode", "butterfly", "--butterfly_block_size", "8"), "give --mode butterfly_block"),
        (("--mode", "butterfly", "--butterfly_stages", "0"), "butterfly stages 0"),
        (("--mode", "butterfly", "--butterfly_stages", "1000"), "butterfly stages 1000"),
        (("--mode", "butterfly_block", "--butterfly_block_size", "7"), "h.0.attn.c_attn: butterfly block size 7"),
        (("--mode", "butterfly_block", "--butterfly_block_size", "1"), "--butterfly_block_size 1"),
        (("--mode", "butterfly", "--butterfly_side", "left"), "side 'left' must be one of input, output, both, auto"),
        (("--mode", "butterfly", "--butterfly_preset", "best"), "preset 'best' must be one of speed, quality"),
        (("--mode", "butterfly", "--butterfly_dropout", "1"), "angle dropout 1.0"),
        (("--mode", "baseline", "--load_in_4bit"), "--load_in_4bit"),
        (("--mod", "lora"), "--mode"),
        (("--lora_rnk", "8"), "--lora_r"),
        (("--packing", "bestfit"), "did you mean best_fit?"),
        (("--target_modules", "c_atn"), "did you mean c_attn?"),
        (("--target_modules", "c_attn", "q_proj"), "'q_proj'"),
        (("--block_size", "129"), "longer than the 128 tokens of context"),
        (("--block_size", "1"), "--block_size 1"),
        (("--lora_r", "0"), "--lora_r 0"),
        (("--lora_dropout", "1.5"), "--lora_dropout 1.5"),
        (("--max_steps", "many"), "--max_steps"),
        (("--lr_scheduler_type", "zigzag"), "zigzag"),
        (("--max_train_samples", "0"), "--max_train_samples 0"),
        (("--vocab_size", "500"), "--from_scratch"),
        (("--muon",), "--muon"),
        (("--threads", "0"), "--threads 0 must be at least 1"),
        (("--threads", "-2"), "--threads -2 must be at least 1"),
        (("stray",), "stray"),
    ],
)
def test_a_wrong_flag_is_one_sentence(
    tiny: Tiny, tmp_path: Path, refused: Refused, flags: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(tiny.flags(tmp_path / "run", *flags))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.txt", None, "none.txt"),
        ("empty.txt", b"", "empty"),
        ("bad.txt", b"caf\xe9 \xff\xfe", "UTF-8"),
        ("bad.jsonl", b'{"text": "one"}\n{"text": \n', "line 2"),
        ("other.jsonl", b'{"body": "one"}\n', "body"),
        ("other.csv", b"title,body\na,b\n", "body"),
        ("broken.parquet", b"PAR1 and then nothing", "broken.parquet"),
        ("texts.docx", b"PK", ".docx"),
    ],
)
def test_a_bad_file_is_one_sentence(
    tiny: Tiny, tmp_path: Path, refused: Refused, name: str, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert expected in refused(tiny.flags(tmp_path / "run", "--train_file", str(tmp_path / name)))
    assert not (tmp_path / "run").exists()


def test_a_model_folder_without_weights_is_named(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text((tiny.model / "config.json").read_text())
    assert "has no weights" in refused(tiny.flags(tmp_path / "run", "--model_path", str(folder)))


def test_a_damaged_weight_file_is_named(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny.model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").write_bytes((tiny.model / "model.safetensors").read_bytes()[:5000])
    assert "damaged" in refused(tiny.flags(tmp_path / "run", "--model_path", str(folder)))


def test_a_folder_with_another_run_is_not_changed(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    assert main(tiny.flags(tmp_path / "run", "--max_steps", "1")) == 0
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    sentence = refused(tiny.flags(tmp_path / "run"))
    assert "--overwrite_output_dir" in sentence
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_an_output_dir_that_is_a_file_or_read_only_is_refused(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tiny.flags(tmp_path / "file"))


def test_out_of_memory_names_the_flags_that_reduce_memory(
    tiny: Tiny, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slm_train.loop.trainer import SlmTrainer

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 824180736 bytes."
        )

    monkeypatch.setattr(SlmTrainer, "compute_loss", fail)
    sentence = refused(tiny.flags(tmp_path / "run"))
    assert "824 MB" in sentence
    assert "--per_device_train_batch_size" in sentence


@pytest.mark.parametrize(
    ("old", "note"),
    [
        (("--evaluation_strategy", "steps", "--eval_steps", "2"), "--eval_strategy"),
        (("--no_cuda",), "--use_cpu"),
        (("--warmup_ratio", "0.1"), "--warmup_steps"),
    ],
)
def test_a_legacy_flag_is_translated_with_one_line(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: tuple[str, ...], note: str
) -> None:
    flags = tiny.flags(tmp_path / "run", *old, "--max_steps", "2")
    if "--no_cuda" in old:
        position = flags.index("--use_cpu")
        del flags[position : position + 2]
    assert main(flags) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if old[0] in line]
    assert len(lines) == 1
    assert note in lines[0]


def test_the_command_itself_exits_with_2_and_no_traceback(tiny: Tiny, tmp_path: Path) -> None:
    done = run("slm_train.cli", tiny.flags(tmp_path / "run", "--mode", "lorra"), tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("slm-train: unknown mode 'lorra'")
    assert "Traceback" not in done.stderr
