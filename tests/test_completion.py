"""``--print_completion``: what a real bash completes after sourcing the script of each command."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from slm_testing.start_up import run_fresh

COMMANDS = {
    "slm-adapters": "slm_adapters.cli",
    "slm-bench": "slm_bench.cli",
    "slm-lab": "slm_lab.cli",
    "slm-paged": "slm_kv.paged",
    "slm-serve": "slm_serve.cli",
    "slm-train": "slm_train.cli",
}
COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
function=$(complete -p "$1" | sed -E 's/.* -F ([^ ]+) .*/\\1/')
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
Script = Callable[[str, str], str]


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> Script:
    """Returns what a command prints with ``--print_completion SHELL``."""

    def printed(command: str, shell: str) -> str:
        capsys.readouterr()
        try:
            code = import_module(COMMANDS[command]).main(["--print_completion", shell])
        except SystemExit as stop:
            code = stop.code
        assert not code
        return capsys.readouterr().out

    return printed


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected", "absent"),
    [
        ("slm-adapters ''", {"merge", "inspect", "push"}, set()),
        ("slm-adapters merge --dt", {"--dtype"}, {"--base"}),
        ("slm-adapters merge --dtype ''", {"float32", "bfloat16"}, set()),
        ("slm-adapters push out", {"outputs"}, {"mine.txt"}),
        ("slm-bench ''", {"kv", "adapters", "train", "serve"}, set()),
        ("slm-bench kv --model_path m", {"mine.txt", "models"}, {"outputs"}),
        ("slm-lab ''", {"compare", "page", "runs", "doctor"}, set()),
        ("slm-lab compare --output_dir o", {"outputs"}, set()),
        ("slm-paged --weights q", {"q8", "q4"}, {"auto"}),
        ("slm-paged --adapter_path ou", {"outputs"}, {"mine.txt"}),
        ("slm-serve --back", {"--backend"}, {"--port"}),
        ("slm-serve --backend ''", {"auto", "engine", "vllm"}, set()),
        ("slm-serve --env_file mi", {"mine.txt"}, set()),
        ("slm-train --lr_scheduler_type co", {"cosine", "constant"}, {"linear"}),
        ("slm-train --mode ''", {"lora", "qlora", "butterfly"}, set()),
        ("slm-train --train_file mi", {"mine.txt"}, set()),
        ("slm-train --chat_template mi", {"mine.txt"}, set()),
        ("slm-train --target_tok", set(), {"--target_tokens_per_step"}),
        ("slm-train dyn", {"dynamic"}, set()),
        ("slm-train dynamic --target_tok", {"--target_tokens_per_step"}, set()),
        ("slm-train dynamic --eval_str", set(), {"--eval_strategy"}),
    ],
)
def test_bash_completes(tmp_path: Path, script: Script, words: str, expected: set[str], absent: set[str]) -> None:
    (tmp_path / "mine.txt").write_text("x")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "models").mkdir()
    line = [word.strip("'") for word in words.split()]
    (tmp_path / ".script").write_text(script(line[0], "bash"))
    result = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", ".script", *line], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    candidates = {candidate.rstrip("/") for candidate in result.stdout.split()}
    assert expected <= candidates
    assert not absent & candidates


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script_of_their_own(script: Script, command: str, shell: str) -> None:
    text = script(command, shell)
    assert text.startswith("#compdef" if shell == "zsh" else "# AUTOMATICALLY GENERATED")
    assert command in text
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(("module", "argument"), [("slm_adapters.cli", "bash"), ("slm_kv.paged", "zsh")])
def test_a_script_is_printed_without_importing_heavy_libraries(module: str, argument: str) -> None:
    process = run_fresh(module, ["--print_completion", argument])
    assert process.code == 0
    assert process.heavy_imports == []


@pytest.mark.parametrize("command", ["slm-adapters", "slm-train"])
def test_an_unknown_shell_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_module(COMMANDS[command]).main(["--print_completion", "dash"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "bash" in errors
    assert "zsh" in errors
