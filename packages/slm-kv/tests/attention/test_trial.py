"""Trying a backend of attention before it is used, with kernels that do not run or compute something else."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slm_kv import Engine
from slm_kv.attention import backends, cpu, reference
from slm_kv.attention.backends import SelectedAttention, attention_of, try_attention
from slm_kv.attention.interface import install
from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.reference import Attend
from slm_kv.attention.step_batch import StepBatch
from slm_kv.attention.trial import TOLERANCE, LayerKind, try_on_step
from slm_kv.engine.step import model_runner
from slm_kv.pages.storage import LayerShape
from slm_testing.kv.tiny_models import make_model
from slm_testing.kv.windowed_models import LONG_CONTEXT, SOME_LAYERS, WINDOW

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
KINDS = [
    LayerKind(4, LayerShape(4, 8), 0.3),
    LayerKind(6, LayerShape(2, 20), 0.3, window=30),
    LayerKind(4, LayerShape(1, 5), 1.5, window=700, softcap=0.7, has_sinks=True),
]


def problem(attend: Attend, kind: LayerKind = KINDS[0], dtype: torch.dtype = torch.float32) -> str:
    return try_on_step(attend, CPU, dtype, kind, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_right_backend_can_be_used(kind: LayerKind, dtype: torch.dtype) -> None:
    assert problem(reference.attend, kind, dtype) == ""
    if dtype in cpu.DTYPES:
        assert problem(cpu.attend, kind, dtype) == ""


def test_the_trial_leaves_the_random_state_as_it_is() -> None:
    before = torch.get_rng_state()
    problem(reference.attend)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Failed to find C compiler. Please specify via CC."), "install gcc and python3-dev"),
        (FileNotFoundError(2, "No such file or directory", "gcc-12"), "gcc-12'); install gcc and python3-dev"),
        (subprocess.CalledProcessError(1, ["gcc", "main.c"]), "the headers of Python"),
        (RuntimeError("PTX was compiled with an unsupported toolchain\nlong\ntrace"), "unsupported toolchain; another"),
        (NotImplementedError(), "NotImplementedError; another version of torch and Triton"),
    ],
)
def test_a_backend_that_fails_is_described_in_one_line_with_a_remedy(error: Exception, words: str) -> None:
    def fail(*args: object) -> Tensor:
        raise error

    text = problem(fail)
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PATH": ""}, "Triton finds no C compiler (Failed to find C compiler"),
        ({"CC": "no-such-compiler"}, "no-such-compiler'); install gcc and python3-dev"),
        ({"CC": "false"}, "the headers of Python"),
    ],
)
def test_errors_of_tritons_own_build_have_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], words: str
) -> None:
    build = pytest.importorskip("triton.runtime.build", reason="triton is not installed")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def launch(*args: object) -> Tensor:
        raise AssertionError(build.compile_module_from_src("int x;", "launcher"))

    assert words in problem(launch)


def changed(change: Callable[[Tensor], Tensor]) -> Attend:
    def attend(
        query: Tensor, key: Tensor, value: Tensor, layer: int, batch: StepBatch, options: LayerAttention
    ) -> Tensor:
        return change(reference.attend(query, key, value, layer, batch, options))

    return attend


def swapped(query: Tensor, key: Tensor, value: Tensor, layer: int, batch: StepBatch, options: LayerAttention) -> Tensor:
    result = reference.attend(query, key, value, layer, batch, options)
    batch.storage.keys[layer].neg_()
    return result


@pytest.mark.parametrize(
    "attend",
    [
        changed(lambda out: out + 0.01),
        changed(lambda out: torch.cat([out[:-1], out[:1]])),  # the last row is another one's
        changed(lambda out: out.masked_fill(out == out.max(), torch.nan)),
        swapped,
    ],
)
def test_a_backend_with_wrong_numbers_is_not_used(attend: Attend) -> None:
    assert "they differ from plain torch by " in problem(attend)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The problems that variants are to have, the fastest variant first; then they have none."""
    problems: list[str] = []
    monkeypatch.setattr(backends, "try_on_step", lambda *args: problems.pop(0) if problems else "")
    backends._problem.cache_clear()
    yield problems
    backends._problem.cache_clear()


def test_on_a_gpu_the_first_variant_that_works_is_used(tried: list[str]) -> None:
    gpu = pytest.importorskip("slm_kv.attention.gpu", reason="triton is not installed")
    names = list(gpu.VARIANTS)
    assert try_attention(CUDA, torch.float16) == SelectedAttention(gpu.VARIANTS[names[0]], names[0])
    tried.append("no flash attention")
    selected = try_attention(CUDA, torch.float32)
    assert (selected.attend, selected.name, selected.problem) == (gpu.VARIANTS[names[1]], names[1], "")
    tried += ["a", "b", "no compiler; install gcc"]
    assert try_attention(CUDA, torch.bfloat16).summary_line == (
        "attention: plain torch, because Triton's kernels cannot be used: no compiler; install gcc\n"
    )


def test_each_kind_of_a_models_layers_is_tried(monkeypatch: pytest.MonkeyPatch, tried: list[str]) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    seen: list[tuple[LayerKind, int]] = []
    monkeypatch.setattr(backends, "try_on_step", lambda *args: seen.append(args[3:]) or "")
    probe = install([SOME_LAYERS["gemma2"]()], LONG_CONTEXT)
    attention_of(replace(probe, device=CUDA), 3)
    assert {(kind.window, page_size) for kind, page_size in seen} == {(WINDOW, 3), (None, 3)}
    assert len(seen) == 2  # for three layers
    assert all(kind.softcap for kind, _ in seen)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_kernels_that_cannot_be_launched_give_plain_torch_and_the_cause() -> None:
    selected = try_attention(CUDA, torch.float32)
    assert selected.attend is reference.attend
    assert selected.problem.startswith(("Triton's kernels cannot be used: ", "Triton is not installed"))


def test_the_engine_names_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    selected = SelectedAttention(reference.attend, problem="Triton's kernels cannot be used: install gcc")
    monkeypatch.setattr(model_runner, "attention_of", lambda *args: selected)
    with Engine(make_model("gpt2")) as engine:
        lines = engine.summary.splitlines()
    assert lines[1] == "attention: plain torch, because Triton's kernels cannot be used: install gcc"
    assert lines[2].startswith("model: ")
