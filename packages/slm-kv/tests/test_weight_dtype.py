"""The dtype of the weights, if the user does not choose one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from slm_adapters import load as load_adapted
from slm_data import sample_base
from slm_kv import DtypeChoice, KVError, automatic_dtype, load, loading, weight_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("stored", "fast", "expected", "reason"),
    [
        (torch.bfloat16, True, torch.bfloat16, "bfloat16, as the checkpoint"),
        (torch.bfloat16, False, torch.float32, "float32, because the checkpoint's bfloat16 is slower on this cpu"),
        (torch.float16, True, torch.float32, "float32, because the checkpoint's float16 is slower on this cpu"),
        (torch.float32, True, torch.float32, "float32, as the checkpoint"),
        (torch.float64, True, torch.float32, "float32; the checkpoint has float64"),
    ],
)
def test_weights_are_never_rounded_and_bfloat16_stays_where_it_is_fast(
    stored: torch.dtype, fast: bool, expected: torch.dtype, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_dtype, "bfloat16_is_fast", lambda: fast)
    choice = DtypeChoice()
    assert choice(stored, CPU) is automatic_dtype(stored, CPU) is expected
    assert choice.reason == reason


@pytest.mark.parametrize(
    ("bf16", "amx", "capability", "fast"),
    [(True, False, "AVX512", True), (False, True, "AVX512", True), (False, False, "DEFAULT", False)],
)
def test_bfloat16_is_fast_with_instructions_for_it(
    bf16: bool, amx: bool, capability: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert weight_dtype.bfloat16_is_fast() is fast


@pytest.mark.parametrize("numba", [True, False])
def test_on_avx2_bfloat16_is_fast_only_through_compiled_products(numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(weight_dtype, "find_spec", lambda name: object() if numba else None)
    assert weight_dtype.bfloat16_is_fast() is numba


@pytest.mark.parametrize("own_loader", [True, False])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_the_dtype_of_the_files_is_used(
    stored: torch.dtype, own_loader: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_dtype, "bfloat16_is_fast", lambda: True)
    if own_loader:
        monkeypatch.setattr(loading, "installed_loader", lambda: None)
    source = load_adapted(sample_base(), device="cpu")
    model: Any = source.model
    model.to(stored).save_pretrained(tmp_path)
    source.tokenizer.save_pretrained(tmp_path)
    model = load(str(tmp_path), device="cpu").model
    assert {parameter.dtype for parameter in model.parameters()} == {automatic_dtype(stored, CPU)}
    assert load(str(tmp_path), dtype=torch.float32, device="cpu").model.dtype is torch.float32


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KVError, match="dtype 'int3' is not one of auto"):
        DtypeChoice("int3")
