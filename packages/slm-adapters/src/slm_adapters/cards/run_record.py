"""A model card from run.json, the record of slm-train. What is missing or has an unexpected form is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from slm_adapters.base.base_lookup import FULL_NAMES, PROVIDERS
from slm_adapters.cards.markdown import escape
from slm_adapters.cards.model_card import Metric, ModelCard, TextSample
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
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

Record = Mapping[str, Any]


def run_card(record: Record) -> ModelCard:
    """Return the card of the run folder that ``record``, the content of its run.json, describes.

    Names of folders appear without the folders above them, so that a published card says nothing about a machine.
    """
    mode, base, dataset = text(record, "mode") or "unknown", base_of(record), text(record, "dataset") or "own texts"
    is_adapter = mode != "baseline"
    method = METHODS.get(mode, mode) + (" with DoRA" if flag(record, "arguments", "use_dora") else "")
    samples = tuple(_samples(record))
    base_id = base.name if base and base.kind == "hub" else None
    dataset_id = hub_id(text(record, "hub", "dataset"))
    own_evaluation = isinstance(entry(record, "arguments", "validation_file"), list) and bool(
        entry(record, "arguments", "validation_file")
    )
    return ModelCard(
        title=f"{dataset}: {method} on {base_words(base, linked=False)}",
        summary=_summary(is_adapter, method, base, dataset, dataset_id),
        usage=Usage(
            base=base if is_adapter else None,
            is_butterfly=mode.startswith("butterfly"),
            is_four_bit=mode == "qlora" or flag(record, "arguments", "load_in_4bit"),
            resizes_embeddings=flag(record, "arguments", "resize_embeddings"),
            **({"prompt": samples[0].prompt} if samples else {}),
        ),
        base_id=base_id,
        relation="adapter" if is_adapter else "finetune",
        datasets=(dataset_id,) if dataset_id else (),
        evaluated_on=None if own_evaluation else dataset_id,
        tags=tuple(dict.fromkeys(("slm", *_tags(record, mode)))),
        metrics=tuple(_metrics(record)),
        evaluation=_evaluation(record),
        figures=tuple(_figures(record, method)),
        samples=samples,
    )


def base_of(record: Record) -> Base | None:
    """Return the base of a run; None for a model that was trained from random weights."""
    name = text(record, "base")
    if not name:
        return None
    if name in PROVIDERS:
        return Base(name, "built-in")
    revision = text(record, "arguments", "model_revision")
    # Without the entry, as up to slm-train 0.6, a name such as models/mine may be a folder or an id.
    known = name if name in FULL_NAMES.values() else None
    if identifier := hub_id(text(record, "hub", "base")) or known:
        return Base(identifier, "hub", revision)
    return Base(last_part(name), "local")


def base_words(base: Base | None, *, linked: bool = True) -> str:
    """Return the base in words; as Markdown with a link to the hub, or plain."""
    if base is None:
        return "a new model"
    if base.kind == "built-in":
        return f"the built-in base model {base.name}" if not linked else f"`{base.name}`, the built-in base of slm-data"
    if base.kind == "local":
        return f"the local model {escape(base.name) if linked else base.name}"
    return f"[{escape(base.name)}](https://huggingface.co/{base.name})" if linked else base.name


def hub_id(name: str | None) -> str | None:
    """Return ``name`` if it can be an id on the hub, else None."""
    return name if name and _HUB_ID.fullmatch(name) else None


def last_part(path: str) -> str:
    """Return the last part of a path of any system."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or "model"


def entry(record: Record, *names: str) -> Any:
    """Return a nested value, or None."""
    value: Any = record
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def text(record: Record, *names: str) -> str | None:
    """Return a nested text that is not empty, or None."""
    value = entry(record, *names)
    return value if isinstance(value, str) and value else None


def flag(record: Record, *names: str) -> bool:
    """Return whether a nested switch is on."""
    return entry(record, *names) is True


def number(record: Record, *names: str) -> float | None:
    """Return a nested number, or None."""
    value = entry(record, *names)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


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
