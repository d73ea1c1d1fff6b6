"""Tokenizers of BPE over characters with byte fallback (Llama 2, Gemma), which llama.cpp merges by scores.

llama.cpp merges the neighbours whose concatenation is the token with the best score, whichever two tokens it is made
of. A tokenizer.json lists the pairs instead. Both give the same tokens if each pair that gives a token is in the list,
and the pairs of a better token all come first, as in lists that were made from a SentencePiece model.
"""

from __future__ import annotations

from typing import Any

from slm_adapters.errors import AdapterError

SPACE = "\u2581"
BYTES = 256
NO_MERGE = -1e6  # score of a token that no pair gives


def is_sentencepiece(content: dict[str, Any]) -> bool:
    """Whether the content of a tokenizer.json describes a tokenizer with byte fallback."""
    return bool(content["model"].get("byte_fallback"))


def puts_space_first(content: dict[str, Any]) -> bool:
    """Whether the tokenizer puts a space before a text."""
    steps = _steps(content["normalizer"]) + _steps(content["pre_tokenizer"])
    return any(
        step["type"] == "Prepend" or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )


def check_sentencepiece(content: dict[str, Any]) -> None:
    """Raise AdapterError unless llama.cpp's tokenizer of this kind gives the same tokens."""
    normalizer, pre_tokenizer = _steps(content["normalizer"]), _steps(content["pre_tokenizer"])
    if not all(_is_space_step(step) for step in normalizer + pre_tokenizer):
        kinds = ", ".join(step["type"] for step in normalizer + pre_tokenizer)
        raise _refusal(f"it prepares text in another way ({kinds})")
    vocabulary = content["model"]["vocab"]
    if not any(step["type"] in ("Replace", "Metaspace") for step in normalizer + pre_tokenizer):
        raise _refusal(f"it does not write spaces as {SPACE}")
    if len([token for token in vocabulary if token.startswith("<0x") and len(token) == len("<0x00>")]) != BYTES:
        raise _refusal("it lacks tokens for some bytes")
    splits = any(step["type"] == "Metaspace" and step.get("split", True) for step in pre_tokenizer)
    if splits and (token := next((token for token in vocabulary if SPACE in token[1:]), None)):
        raise _refusal(f"it splits text at spaces, but has the token {token!r}")


def piece_scores(model: dict[str, Any], tokens: list[str]) -> list[float]:
    """Return the score of each of ``tokens``: minus the position of its first pair in the list.

    Raises AdapterError if the list is not one that scores can express.
    """
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for position, (left, right) in enumerate(pairs):
        first.setdefault(left + right, position)
        last[left + right] = position
    _check_order(model["vocab"], set(pairs), first, last)
    return [float(-first[token]) if token in first else NO_MERGE for token in tokens]


def _check_order(
    vocabulary: dict[str, int], pairs: set[tuple[str, ...]], first: dict[str, int], last: dict[str, int]
) -> None:
    for token in vocabulary:
        for cut in range(1, len(token)):
            pair = (token[:cut], token[cut:])
            if pair[0] in vocabulary and pair[1] in vocabulary and pair not in pairs:
                raise _refusal(f"its merges lack {pair[0]!r} + {pair[1]!r}, although {token!r} is a token")
    end = -1
    for token, position in sorted(first.items(), key=lambda item: item[1]):
        if position < end:
            raise _refusal(f"its merges to {token!r} are not next to each other")
        end = last[token]


def _is_space_step(step: dict[str, Any]) -> bool:
    kind = step["type"]
    if kind in ("Replace", "Split"):
        return step["pattern"] == {"String": " "}
    return kind in ("Prepend", "Metaspace")


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if part is None:
        return []
    nested = part.get("normalizers") or part.get("pretokenizers")
    return [step for each in nested for step in _steps(each)] if nested else [part]


def _refusal(reason: str) -> AdapterError:
    return AdapterError(
        f"llama.cpp would tokenise otherwise than this tokenizer with byte fallback: {reason}; serve the model with "
        "slm-serve, or train with a tokenizer of byte-level BPE (slm-train --vocab_size)"
    )
