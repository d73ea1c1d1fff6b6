"""Sizes of the parts: those that tell something about a large GPU, and those that a CPU computes in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Sizes of all parts.

    Attributes:
        exact_models: Shapes whose results are compared exactly.
        speed_model: The shape that is timed.
        heads: Query heads, heads of keys and values, and dimensions of a head, for the kernels.
        lengths: Tokens of the sequences that decode, for the kernels.
        chunks: Past tokens and new ones of the prompts beside them.
        prompts: Requests of the engine.
        prompt_tokens: Tokens of a prompt.
        new_tokens: Tokens that are generated.
        vocabulary: Logits of a row that is sampled.
        sequences: Numbers of sequences that are decoded at a time.
        modes: Modes of training.
        timed_modes: Those that are timed for all sizes of a step.
        block_size: Tokens in a row of training.
        documents: Documents that are trained on.
        step_tokens: Tokens of a training step.
        micro_batch_tokens: The most tokens of a micro-batch.
        steps: Steps that are timed, after one that is not.
        copied_bytes: What is copied to measure the bandwidth.
    """

    exact_models: tuple[str, ...]
    speed_model: str
    heads: tuple[tuple[int, int, int], ...]
    lengths: tuple[int, ...]
    chunks: tuple[tuple[int, int], ...]
    prompts: int
    prompt_tokens: int
    new_tokens: int
    vocabulary: int
    sequences: tuple[int, ...]
    modes: tuple[str, ...]
    timed_modes: tuple[str, ...]
    block_size: int
    documents: int
    step_tokens: tuple[int, ...]
    micro_batch_tokens: int
    steps: int
    copied_bytes: int


FULL = Sizes(
    exact_models=("gpt2", "llama", "qwen2", "neox"),
    speed_model="smollm2-135m",
    heads=((12, 12, 64), (9, 3, 64), (32, 8, 128), (8, 1, 256), (6, 2, 80)),
    lengths=(1, 16, 17, 160, 1000, 4097),
    chunks=((0, 33), (700, 16)),
    prompts=12,
    prompt_tokens=128,
    new_tokens=64,
    vocabulary=49_152,
    sequences=(1, 8, 64, 256),
    modes=("baseline", "lora", "butterfly", "butterfly_block", "oft"),
    timed_modes=("baseline", "lora", "butterfly"),
    block_size=1024,
    documents=2000,
    step_tokens=(2048, 16_384, 65_536),
    micro_batch_tokens=16_384,
    steps=4,
    copied_bytes=4 * 2**30,
)
SMALL = Sizes(
    exact_models=("gpt2", "llama"),
    speed_model="tiny",
    heads=((4, 2, 8),),
    lengths=(1, 17),
    chunks=((0, 5), (9, 4)),
    prompts=3,
    prompt_tokens=8,
    new_tokens=6,
    vocabulary=97,
    sequences=(1, 3),
    modes=("baseline", "lora", "butterfly", "butterfly_block", "oft"),
    timed_modes=("baseline", "lora", "butterfly"),
    block_size=64,
    documents=24,
    step_tokens=(128,),
    micro_batch_tokens=64,
    steps=2,
    copied_bytes=2**24,
)
