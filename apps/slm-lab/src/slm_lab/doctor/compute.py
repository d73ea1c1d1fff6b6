"""What torch can do here: devices, precision, instructions, threads, kernels."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from slm_lab.doctor.check import Check
from slm_lab.figures import size
from slm_train import fastest_threads
from slm_train import multiplies_bfloat16 as cpu_multiplies_bf16


def device() -> Check:
    """What training takes where nothing is said."""
    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        return Check("device", "works", f"{torch.cuda.get_device_name()}, {size(free)} free of {size(whole)}")
    if torch.backends.mps.is_available():
        return Check("device", "works", "the GPU of this Mac (MPS)")
    if torch.version.cuda is None:
        why = "this torch is built for CPUs"
    else:
        why = f"torch is built for CUDA {torch.version.cuda} and sees no GPU"
    advice = "small models train on it; with an NVIDIA GPU, see that nvidia-smi lists it and its driver fits torch"
    return Check("device", "works", f"CPU: {why}", advice)


def bf16() -> Check:
    """Whether bfloat16 is multiplied by instructions of its own."""
    if torch.cuda.is_available():
        has = torch.cuda.is_bf16_supported(False)
        advice = "" if has else "give --fp16 true"
        return Check("bfloat16", "works" if has else "limited", "on the GPU" if has else "the GPU has none", advice)
    if cpu_multiplies_bf16():
        return Check("bfloat16", "works", "the CPU has its instructions: on unless --bf16 false")
    advice = "leave --bf16 off, as it is unless given: emulated it is several times slower than float32"
    return Check("bfloat16", "limited", "emulated on this CPU", advice)


def instructions() -> Check:
    """The widest vectors of the CPU that torch computes with."""
    level = torch.backends.cpu.get_cpu_capability()
    if level in ("DEFAULT", "default", "NO AVX"):
        return Check("instructions", "limited", "no AVX2", "all works, several times slower; another machine helps")
    return Check("instructions", "works", level)


def threads() -> Check:
    """A short probe, as slm-train makes it."""
    fastest, own = fastest_threads(), torch.get_num_threads()
    return Check(
        "threads", "works", f"{fastest} fastest right now, torch's default is {own}; slm-train probes by itself"
    )


def kernels() -> Check:
    """The compilers of fused kernels."""
    here = find_spec("triton") is not None
    if torch.cuda.is_available():
        if here:
            return Check("Triton", "works", "compiles kernels for the GPU")
        return Check("Triton", "missing", "not installed", "pip install triton: torch.compile needs it on a GPU")
    return Check("Triton", "works", f"{'installed, ' if here else ''}not needed without a GPU")
