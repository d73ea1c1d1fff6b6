"""A model card from run.json, the record of slm-train. What is missing or has an unexpected form is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from slm_adapters.cards.base_names import base_of, base_words, hub_id
from slm_adapters.cards.markdown import escape
from slm_adapters.cards.model_card import Metric, ModelCard, TextSample
from slm_adapters.cards.record_values import Record, entry, flag, number, text
from slm_adapters.cards.usage import Base, Usage

METHODS = {
    "baseline": "all weights",
    "lora": "LoRA",
    "qlora": "LoRA over 4-bit weights",
    "butterfly": "butterfly rotations of the full width",
    "butterfly_block": "butterfly rotations of blocks",
    "oft": "OFT",
}
METRICS = {"perplexity": "perplexity", "bits_per_byte": "bits per byte"}
VERSIONS = ("slm-train", "slm-adapters", "torch", "transformers", "peft")


def run_card(record: Record) -> ModelCard:
    """Return the card of the run folder that ``record``, the content of its run.json, describes.

    Names of folders appear without the folders above them, so that a published card says nothing about a machine.
    """
    mode, base, dataset = text(record, "mode") or "unknown", base_of(record), text(record, "dataset") or "own texts"
    method = METHODS.get(mode, mode) + (" with DoRA" if flag(record, "arguments", "use_dora") else "")
    samples, dataset_id = tuple(_samples(record)), hub_id(text(record, "hub", "dataset"))
    is_adapter, has_own_evaluation = mode != "baseline", bool(entry(record, "arguments", "validation_file"))
    return ModelCard(
        title=f"{dataset}: {method} on {base_words(base, linked=False)}",
        summary=_summary(is_adapter, method, base, dataset, dataset_id),
        usage=_usage(record, mode, base if is_adapter else None, samples),
        base_id=base.name if base and base.kind == "hub" else None,
        relation="adapter" if is_adapter else "finetune",
        datasets=(dataset_id,) if dataset_id else (),
        evaluated_on=None if has_own_evaluation else dataset_id,
        tags=tuple(dict.fromkeys(("slm", *_tags(record, mode)))),
        metrics=tuple(_metrics(record)),
        evaluation=_evaluation(record),
        figures=tuple(_figures(record, method)),
        samples=samples,
    )


def _usage(record: Record, mode: str, base: Base | None, samples: Sequence[TextSample]) -> Usage:
    usage = Usage(
        base=base,
        is_butterfly=mode.startswith("butterfly"),
        loads_with_peft=mode != "oft",  # PEFT 0.21 cannot, over the Conv1D layers of GPT-2
        is_four_bit=mode == "qlora" or flag(record, "arguments", "load_in_4bit"),
        resizes_embeddings=flag(record, "arguments", "resize_embeddings"),
        end_ids=_end_ids(record),
    )
    return replace(usage, prompt=samples[0].prompt) if samples else usage


def _end_ids(record: Record) -> tuple[int, ...] | None:
    ids = entry(record, "chat", "end_ids")
    return tuple(token for token in ids if isinstance(token, int)) if isinstance(ids, list) else None


def _summary(is_adapter: bool, method: str, base: Base | None, dataset: str, dataset_id: str | None) -> str:
    data = f"[{escape(dataset)}](https://huggingface.co/datasets/{dataset_id})" if dataset_id else escape(dataset)
    if base is None:
        return f"A causal language model, trained from random weights on {data} with slm-train."
    if is_adapter:
        return f"An adapter ({escape(method)}) for {base_words(base)}, trained on {data} with slm-train."
    return f"A causal language model: {base_words(base)} with all weights trained on {data}, with slm-train."


def _tags(record: Record, mode: str) -> Iterator[str]:
    """Yield the mode and its method as tags: lower case, without spaces."""
    yield re.sub(r"[^a-z0-9_.-]+", "-", mode.lower())
    if mode == "qlora":
        yield "lora"
    if mode.startswith("butterfly"):
        yield "butterfly"
    if flag(record, "arguments", "use_dora"):
        yield "dora"


def _metrics(record: Record) -> Iterator[Metric]:
    for name, label in METRICS.items():
        if (after := number(record, "evaluation", "after", name)) is not None:
            yield Metric(label, number(record, "evaluation", "before", name), after)


def _evaluation(record: Record) -> str:
    tokens, block = (number(record, "evaluation", "after", name) for name in ("tokens", "block_size"))
    rows = f", in rows of at most {block:,} tokens" if block else ""
    return f"On {tokens:,} tokens of held-out texts{rows}." if tokens else ""


def _figures(record: Record, method: str) -> Iterator[tuple[str, str]]:
    yield "method", method
    if rate := number(record, "arguments", "learning_rate"):
        yield "peak learning rate", f"{rate:g}"
    if steps := number(record, "speed", "steps"):
        yield "optimizer steps", f"{steps:,}"
    if tokens := number(record, "speed", "tokens"):
        yield "trained tokens", f"{tokens:,}"
    documents, held = (number(record, "data", "train", name) for name in ("documents", "tokens"))
    if documents and held:
        yield "training texts", f"{documents:,} documents, {held:,} tokens"
    trainable, total = (number(record, "parameters", name) for name in ("trainable", "total"))
    if trainable and total:
        yield "trained parameters", f"{trainable:,} of {total:,} ({100 * trainable / total:.2f} %)"
    for name, label in (("weights", "memory of the weights"), ("peak", "peak memory")):
        if size := number(record, "memory", name):
            yield label, f"{size / 1e6:,.1f} MB"
    if seconds := number(record, "speed", "train_seconds"):
        yield "training time", f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
    if device := text(record, "device", "name"):
        yield "device", device
    if precision := text(record, "precision"):
        yield "precision", precision
    if precision := text(record, "base_precision"):
        yield "precision of the base's file", precision
    if date := text(record, "date"):
        yield "date", date
    if versions := [f"{name} {version}" for name in VERSIONS if (version := text(record, "versions", name))]:
        yield "versions", ", ".join(versions)


def _samples(record: Record) -> Iterator[TextSample]:
    """Yield the samples by prompt, in the order of those after training."""
    before = {sample["prompt"]: sample["text"] for sample in _texts(record, "before")}
    after = {sample["prompt"]: sample["text"] for sample in _texts(record, "after")}
    for prompt in dict.fromkeys((*before, *after)):
        yield TextSample(prompt, before.get(prompt), after.get(prompt))


def _texts(record: Record, when: str) -> Iterator[dict[str, str]]:
    """Yield prompts and texts. Up to slm-train 0.6 there was one text, whose prompt is among the arguments."""
    samples = entry(record, "samples", when)
    if isinstance(samples, str):
        yield {"prompt": text(record, "arguments", "prompt") or "", "text": samples}
    for sample in samples if isinstance(samples, list) else ():
        prompt, continued = entry(sample, "prompt"), entry(sample, "text")
        if isinstance(prompt, str) and isinstance(continued, str):
            yield {"prompt": prompt, "text": continued}
