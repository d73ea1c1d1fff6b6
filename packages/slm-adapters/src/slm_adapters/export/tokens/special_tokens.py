"""Special tokens in GGUF: beginning and end of text, and what is put around a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slm_adapters.errors import AdapterError

END_KEYS = ("eos", "eot", "eom")  # the ends of generation that GGUF has keys for


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of special tokens. ``ends``: those that end generation, the tokenizer's own first."""

    ends: tuple[int, ...]
    bos: int | None
    unk: int | None
    pad: int
    adds_bos: bool
    adds_eos: bool

    @property
    def notes(self) -> list[str]:
        """Sentences about what GGUF cannot express."""
        rest = self.ends[len(END_KEYS) :]
        if not rest:
            return []
        return [f"GGUF has keys for {len(END_KEYS)} end tokens; the Modelfile has the others too, llama.cpp does not"]


def read_special_tokens(tokenizer: Any, model: Any) -> SpecialTokens:
    """Return the special tokens of a model and its tokenizer.

    Raises AdapterError if there is no end token, for which llama.cpp would take another, or if the tokenizer puts other
    tokens around a text than the two that mark its beginning and end.
    """
    ends = _ends(tokenizer, model)
    if not ends:
        raise AdapterError(
            "the model has no token that ends a text, and llama.cpp would take token 11 for it; set eos_token_id in "
            "its generation_config.json"
        )
    text = "a"
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text)["input_ids"]
    adds_bos, adds_eos = whole[:1] == [tokenizer.bos_token_id], whole[-1:] == [tokenizer.eos_token_id]
    adds_bos, adds_eos = adds_bos and whole != bare, adds_eos and whole != bare
    if whole != [tokenizer.bos_token_id] * adds_bos + bare + [tokenizer.eos_token_id] * adds_eos:
        raise AdapterError(
            f"the tokenizer puts other tokens around a text than beginning and end ({whole} for {text!r}), which "
            "llama.cpp cannot do; serve the model with slm-serve"
        )
    # transformers takes 32000 for a Phi-3 without a padding token, which a small vocabulary does not have.
    pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return SpecialTokens(ends, tokenizer.bos_token_id, tokenizer.unk_token_id, pad, adds_bos, adds_eos)


def write_special_tokens(writer: Any, tokens: SpecialTokens) -> None:
    """Add special tokens to a ``GGUFWriter``."""
    for key, token in zip(END_KEYS, tokens.ends, strict=False):
        getattr(writer, f"add_{key}_token_id")(token)
    writer.add_pad_token_id(tokens.pad)
    for key, optional in (("bos", tokens.bos), ("unk", tokens.unk)):
        if optional is not None:
            getattr(writer, f"add_{key}_token_id")(optional)
    writer.add_add_bos_token(tokens.adds_bos)
    writer.add_add_eos_token(tokens.adds_eos)


def _ends(tokenizer: Any, model: Any) -> tuple[int, ...]:
    recorded = getattr(model.generation_config, "eos_token_id", None)
    if recorded is None:
        recorded = model.config.eos_token_id
    if recorded is None:
        recorded = tokenizer.eos_token_id
    ids = [] if recorded is None else [recorded] if isinstance(recorded, int) else list(recorded)
    own = [token for token in ids if token == tokenizer.eos_token_id]
    return tuple(dict.fromkeys(own + ids))
