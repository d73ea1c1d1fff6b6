"""Flags that need a package, a compiler or several processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from slm_train.command_line.flag_choices import choose_from
from slm_train.errors import TrainError, shown

_PACKAGES = {"use_liger_kernel": ("liger_kernel", "liger-kernel"), "deepspeed": ("deepspeed", "deepspeed")}
_COMPILERS = ("g++", "clang++", "c++")  # any of them; torch._inductor needs one on a CPU too


def check_packages(values: Mapping[str, Any]) -> None:
    """Raise TrainError for a flag whose package is not installed, and for a compiler that does not exist."""
    for name, (module, package) in _PACKAGES.items():
        if values.get(name) and find_spec(module) is None:
            raise TrainError(f"--{name} needs the package {package}: pip install {package}, or leave out --{name}")
    if values.get("torch_compile") or values.get("torch_compile_backend") or values.get("torch_compile_mode"):
        _check_compiler(values.get("torch_compile_backend") or "inductor")
    if values.get("fsdp") and "WORLD_SIZE" not in os.environ:  # torchrun sets it
        raise TrainError(
            "--fsdp shards a model over several processes, and this is one; start them with torchrun "
            "--nproc_per_node N -m slm_train.cli ..., or leave out --fsdp"
        )


def _check_compiler(backend: str) -> None:
    from accelerate.utils import DynamoBackend  # imports torch._dynamo, which takes a second: only if it is used
    from torch._dynamo import list_backends

    known = {item.value.lower() for item in DynamoBackend} & set(list_backends(exclude_tags=()))
    known -= {name for name in ("tvm",) if find_spec(name) is None}  # listed whether installed or not
    if backend not in known:
        message = choose_from(backend, sorted(known))
        raise TrainError(f"--torch_compile_backend {shown(backend)}: {message}")
    compiler = os.environ.get("CXX")
    if backend == "inductor" and not any(map(shutil.which, [compiler] if compiler else _COMPILERS)):
        raise TrainError(
            "--torch_compile needs a C++ compiler, and there is none; install g++, name one in $CXX, or leave out "
            "--torch_compile"
        )
