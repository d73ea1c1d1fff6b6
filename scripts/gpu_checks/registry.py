"""The parts of the verification, with the claims that each of them decides. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """A part of the verification.

    Attributes:
        name: Its name on the command line and of its result file.
        title: What it checks, for the page.
        seconds: Its share of the time, relative to the other parts'; with the default budget about seconds.
        claims: What it decides, by key.
        module: The module with ``run(recorder)``; by default that of this name in ``gpu_checks.parts``.
        alone: Whether it measures time or memory, so that nothing else may run beside it.
        needs_cuda: Whether it can only run on a CUDA device.
        packages: Packages without which it is skipped.
    """

    name: str
    title: str
    seconds: float
    claims: Mapping[str, str] = field(default_factory=dict)
    module: str = ""
    alone: bool = False
    needs_cuda: bool = False
    packages: tuple[str, ...] = ()

    @property
    def module_name(self) -> str:
        return self.module or f"gpu_checks.parts.{self.name}"


PARTS = (
    Part(
        "environment",
        "Environment",
        25,
        {"product": "A float32 matrix product on the device equals the one in float64 on the CPU within 1e-5"},
    ),
    Part("gpu_tests", "Tests marked gpu", 60, {"tests": "All tests marked `gpu` pass"}),
    Part(
        "kernels",
        "Kernels against float64",
        60,
        {
            "float32": "Attention over pages equals dense attention in float64 within 2e-5 in float32",
            "bfloat16": "the same in bfloat16 within 3e-2",
            "float16": "the same in float16 within 5e-3",
            "sampling": "Tokens sampled on the device are those that the host samples from the same logits",
        },
    ),
    Part(
        "engine",
        "Engine against generate",
        60,
        {
            "tokens": "In float32 the engine's greedy texts are those of transformers' `generate`, token by token",
            "graphs": "the same with CUDA graphs",
            "sampled": "A sampled text is the same alone and among others",
            "syncs": "A decode step waits for the device once, for the token ids",
        },
    ),
    Part(
        "training",
        "Loss and gradients against float64 on the CPU",
        75,
        {
            "loss": "In float32 the loss of a step in every mode is the one in float64 on the CPU within 1e-5",
            "gradients": "the same for its gradients within 1e-4 of their norm",
            "autocast": "Under bfloat16 autocast the gradients are within 5e-2 of their norm",
        },
    ),
    Part(
        "packing",
        "Packed and unpacked rows",
        50,
        {
            "logits": "Packed documents do not influence each other, in float32 and under bfloat16 autocast",
            "gradients": "A step over the same documents has the same gradients packed and unpacked within 1e-4",
        },
    ),
    Part(
        "one_rank",
        "One process of a group",
        90,
        {
            "collectives": "NCCL (gloo on a CPU) connects one process and reduces",
            "fsdp2": "A model sharded by `fully_shard` over one process has the gradients of the plain model",
            "trainer": "`torchrun -m slm_train.cli` gives the losses of the run without torchrun",
            "dynamic": "the same for `slm-train dynamic`",
            "fsdp": "the same for `--mode baseline --fsdp`",
        },
    ),
    Part(
        "qlora",
        "QLoRA",
        45,
        {
            "gradients": "A step in float32 has the gradients in float64 over the dequantised weights within 1e-4",
            "training": "`--mode qlora` trains, with finite losses that fall",
        },
        packages=("bitsandbytes",),
    ),
    Part(
        "doctor",
        "slm-lab doctor and the trial of the kernels",
        35,
        {
            "doctor": "`slm-lab doctor` runs and names the device",
            "kernel": "The engine's attention on the device is the Triton kernel",
        },
    ),
    Part(
        "decode_speed",
        "Decoding",
        100,
        {
            "transformers": "Greedy decoding is at least as fast as transformers' `generate`, for 1 to 256 sequences",
            "graphs": "CUDA graphs make decoding of one sequence faster",
        },
        alone=True,
    ),
    Part(
        "training_speed",
        "Training",
        150,
        {
            "modes": "Every mode trains at every number of tokens per step, with finite losses",
            "compile": "With `--torch_compile` the loss of the first step is the same within 1e-2",
        },
        alone=True,
    ),
    Part(
        "memory",
        "Estimated and measured memory",
        45,
        {
            "sizes": "Weights, gradients and optimizer state of `--dry_run` are those of the run within 1 %",
            "peak": "The peak that `--dry_run` estimates is the measured one within 15 %",
        },
        alone=True,
    ),
    Part(
        "out_of_memory",
        "Out of memory",
        30,
        {
            "sentence": "`slm-train` without enough memory ends with one sentence and exit code 2",
            "training": "The same process trains afterwards",
            "engine": "A request that takes too much memory ends alone, and the engine answers the next one",
        },
        alone=True,
    ),
)
