"""Checks of what torch can do here: device, bfloat16, vector instructions, threads, Triton."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from slm_lab.doctor.check import Check
from slm_lab.formatting import format_bytes
from slm_train import fastest_threads, multiplies_bfloat16


def check_device() -> Check:
    """Check which device training uses by default."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        detail = f"{torch.cuda.get_device_name()}, {format_bytes(free)} free of {format_bytes(total)}"
        return Check("device", "works", detail)
    if torch.backends.mps.is_available():
        return Check("device", "works", "the GPU of this Mac (MPS)")
    if torch.version.cuda is None:
        reason = "this torch is built for CPUs"
    else:
        reason = f"torch is built for CUDA {torch.version.cuda} but finds no GPU"
    advice = "enough for small models; with an NVIDIA GPU, check that nvidia-smi lists it and its driver fits torch"
    return Check("device", "works", f"CPU: {reason}", advice)


def check_bfloat16() -> Check:
    """Check whether the device has bfloat16 instructions."""
    if torch.cuda.is_available():
        # By default torch also counts emulation as support.
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Check("bfloat16", "works", "supported by the GPU")
        return Check("bfloat16", "limited", "not supported by the GPU", "training uses float16 there by default")
    if multiplies_bfloat16():
        return Check("bfloat16", "works", "supported by the CPU: on unless --bf16 false")
    # Training takes float32 by default on such CPUs.
    advice = "do not use --bf16 here (it is off by default): emulation is several times slower than float32"
    return Check("bfloat16", "limited", "emulated on this CPU", advice)


def check_instructions() -> Check:
    """Check which vector instructions torch uses on this CPU."""
    level = torch.backends.cpu.get_cpu_capability()
    if level in ("DEFAULT", "default", "NO AVX"):
        advice = "everything works, but several times slower than on a CPU with AVX2"
        return Check("instructions", "limited", "no AVX2", advice)
    return Check("instructions", "works", level)


def check_threads() -> Check:
    """Measure the fastest number of threads, as slm-train does."""
    fastest, default = fastest_threads(), torch.get_num_threads()
    detail = f"currently {fastest} is fastest (torch's default: {default}); slm-train measures this itself"
    return Check("threads", "works", detail)


def check_triton() -> Check:
    """Check Triton, which compiles kernels for GPUs: those of slm-kv's attention are tried."""
    installed = find_spec("triton") is not None
    if not torch.cuda.is_available():
        return Check("Triton", "works", f"{'installed, ' if installed else ''}not needed without a GPU")
    if not installed:
        return Check("Triton", "missing", "not installed", "pip install triton: torch.compile needs it on a GPU")
    from slm_kv import try_attention

    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    attention = try_attention(torch.device("cuda"), torch.bfloat16 if has_bfloat16 else torch.float16)
    if attention.problem:
        problem, _, remedy = attention.problem.rpartition("; ")
        return Check("Triton", "limited", f"attention is computed by {attention.name}: {problem}", remedy)
    return Check("Triton", "works", f"attention, tried: {attention.name}")
