"""The slm-paged command as a user runs it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from slm_kv.linear.packing import PackedModel
from slm_kv.paged import main
from slm_testing.kv.tiny_models import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokens are words."""
    path = tmp_path_factory.mktemp("model")
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(97)}, unk_token="w1"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", unk_token="w1").save_pretrained(path)
    model = make_model("llama")
    model.save_pretrained(path)
    return path


def flags(folder: Path, *more: str) -> list[str]:
    return ["--model_path", str(folder), "--prompt", "w5 w6 w7", "--threads", "1", "--ignore_eos", *more]


def test_the_same_seed_gives_the_same_text_and_the_report_adds_up(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for _ in range(2):
        assert main(flags(folder, "--max_new_tokens", "20", "--page_size", "8", "--max_pages", "4", "--seed", "3")) == 0
        texts.append(capsys.readouterr().out.split("\n\n")[:2])
        assert "pool: 4 pages of 8 tokens, 32 tokens in total, 0.0 MB" in texts[-1][0]
    assert texts[0][1] == texts[1][1]
    assert texts[0][1].startswith("w5 w6 w7")
    assert len(texts[0][1].split()) == 23


def test_graphs_that_the_device_does_not_have_are_mentioned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(folder, "--max_new_tokens", "2", "--cuda_graphs", "auto")) == 0
    assert "\ncuda graphs: none on a cpu, threads: 1\n" in capsys.readouterr().out


@pytest.fixture(scope="module")
def chat_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a chat template: w8, the question, w9."""
    path = shutil.copytree(folder, tmp_path_factory.mktemp("chat") / "model")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = (
        "{% if messages[0].content == 'w0' %}{{ raise_exception('w0 is no question') }}{% endif %}"
        "w8 {{ messages[0].content }}{% if add_generation_prompt %} w9{% endif %}"
    )
    tokenizer.save_pretrained(path)
    return path


def test_a_question_is_asked_with_the_chat_template(chat_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampling = ("--max_new_tokens", "12", "--temperature", "0")
    assert main(flags(chat_folder, "--chat", *sampling)) == 0
    shown = capsys.readouterr().out.split("\n\n")
    assert main(flags(chat_folder, "--prompt", "w8 w5 w6 w7 w9", *sampling)) == 0
    continued = capsys.readouterr().out.split("\n\n")[1]
    assert shown[1] == "w5 w6 w7"
    assert shown[2].split() == continued.split()[5:]


@pytest.mark.parametrize(
    ("question", "message"),
    [("w5", "the tokenizer has no chat template; leave out --chat"), ("w0", "rejects the question: w0 is no question")],
)
def test_a_question_that_cannot_be_asked_is_one_sentence(
    question: str, message: str, folder: Path, chat_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = chat_folder if question == "w0" else folder
    assert main(flags(model, "--chat", "--prompt", question)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("on_full", "code", "expected"),
    [
        (
            "stop",
            0,
            ["finished: length, the pages are full after 32 tokens (--on_full stop)", "32 of their 32 slots filled"],
        ),
        ("window", 0, ["all 50 requested tokens; the window moved", "approximate"]),
        ("error", 2, ["finished: error, the context is full after 33 tokens"]),
    ],
)
def test_the_report_says_what_happened_at_the_limit(
    on_full: str, code: int, expected: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--max_new_tokens", "50", "--page_size", "8", "--max_pages", "4", "--on_full", on_full)
    assert main(flags(folder, *sizes)) == code
    out = capsys.readouterr().out
    assert all(part in out for part in expected), out


@pytest.mark.parametrize(
    ("bad_flags", "message"),
    [
        (("--page_size", "0"), "page_size=0 is not a whole number of at least 1"),
        (("--page_size", "65"), "page_size=65 exceeds the model's context of 64 tokens"),
        (("--max_pages", "1", "--page_size", "2"), "give at least 2 pages"),
        (("--prompt", ""), "the prompt is empty"),
        (("--prompt", "w2 " * 65, "--max_pages", "9"), "the prompt has 65 tokens and the model has 64 positions"),
        (("--temperature", "-0.5"), "temperature=-0.5 is out of range"),
        (("--top_p", "1.5"), "top_p=1.5 is out of range"),
        (("--model_path", "./no/such/folder"), "no/such/folder"),
        (("--backend", "transformers", "--on_full", "window"), "on_full='window' needs pages"),
        (("--device", "gpu"), "device 'gpu' cannot be used on this machine; use cpu"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    bad_flags: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(folder, *bad_flags)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("slm-paged: ")
    assert message in lines[0]


def test_without_pages_the_report_has_none_and_the_text_is_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = {}
    for backend in ("paged", "transformers"):
        assert main(flags(folder, "--max_new_tokens", "20", "--seed", "3", "--backend", backend)) == 0
        reports[backend] = capsys.readouterr().out.split("\n\n")
    assert reports["transformers"][1] == reports["paged"][1]
    assert "engine: transformers' own generation, at most 1 request in turn" in reports["transformers"][0]
    assert "pages" in reports["paged"][2]
    assert "pages" not in reports["transformers"][2]


def test_the_module_runs_as_a_command_in_a_fresh_process(folder: Path) -> None:
    command = [sys.executable, "-m", "slm_kv.paged", *flags(folder, "--max_new_tokens", "3", "--temperature", "0")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "finished: length, all 3 requested tokens" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("threads", ["0", "-1", "two"])
def test_an_invalid_number_of_threads_is_named_in_the_error(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--threads", threads])
    assert exit_info.value.code == 2
    assert f"{threads!r} is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("new_tokens", "on_full", "pages", "ending"),
    [
        (6, "stop", 1, "all 6 requested tokens"),  # 3 of the prompt and 5: the last token's keys are not stored
        (7, "stop", 2, "all 7 requested tokens"),
        (90, "stop", 9, "the model has no more positions after 64 tokens"),
        (90, "window", 8, "all 90 requested tokens; the window moved"),
    ],
)
def test_the_pool_is_as_large_as_the_request_needs(
    new_tokens: int, on_full: str, pages: int, ending: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(folder, "--max_new_tokens", str(new_tokens), "--page_size", "8", "--on_full", on_full)) == 0
    output = capsys.readouterr().out
    assert f"pool: {pages} page" in output
    assert ending in output


def test_the_weights_are_not_unpacked_when_the_process_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(_: PackedModel) -> None:
        raise AssertionError("a second copy of the weights")

    monkeypatch.setattr(PackedModel, "unpack", unpack)
    assert main(flags(folder, "--max_new_tokens", "2")) == 0
