"""Pre-tokenizers of byte-level BPE by their names in GGUF (``tokenizer.ggml.pre``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, pre_tokenizers

# Text in which each pre-tokenizer of this table splits otherwise than the others: contractions, digits, runs of spaces
# and line ends, capitals, punctuation, scripts without spaces, combining marks and emoji.
PROBE = (
    "Hello  WORLD, don't we'll I'M it'S THEY'RE iPhoneX fooBar ÉCOLE naïve 12345 3.14159 ½ ² ٣٤٥ v1.2.3 "
    "\n \n\n \t\tx = [1,2];\r\n    return  x  \n\n\n   !!! ... --- `code`;/path\n 我想在1314151天 кириллица हिन्दी "
    "e\u0301a\u0308 🚀 👨\u200d👩\u200d👧 \u3000\u00a0z __init__(self)->None: <|x|> #tag @user 'quoted' \"q\"\n//\n  "
)

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS, _SIGNS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"


@dataclass(frozen=True)
class PreTokenizer:
    """A pre-tokenizer that llama.cpp has under the name ``gguf``, and under other names.

    Attributes:
        gguf: Name in GGUF.
        build: Makes the pre-tokenizer of ``tokenizers``.
        ignore_merges: Whether llama.cpp takes words that are tokens as they are, without their merges.
        aliases: Other names in GGUF.
        is_exact: Whether llama.cpp splits all texts in the same way.
    """

    gguf: str
    build: Callable[[], Any]
    ignore_merges: bool = False
    aliases: tuple[str, ...] = ()
    is_exact: bool = True


def _split(pattern: str) -> Callable[[], Any]:
    return lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


PRE_TOKENIZERS = (
    PreTokenizer(
        "gpt-2",
        _gpt2,
        aliases=("phi-2", "olmo", "mpt", "jais", "trillion", "exaone4", "mellum", "gigachat", "a.x-4.0", "modern-bert"),
    ),
    PreTokenizer(
        "smollm",
        _single_digits,
        aliases=("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    ),
    PreTokenizer(
        "llama-bpe",
        _split(_LLAMA3),
        ignore_merges=True,
        aliases=("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    ),
    PreTokenizer("dbrx", _split(_LLAMA3), aliases=("smaug-bpe",)),
    PreTokenizer(
        "qwen2",
        _split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_SIGNS}|{_SPACES}"),
        aliases=("deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2"),
    ),
    PreTokenizer(
        "gpt-4o",
        _split(rf"{_CASED % ((_CONTRACTIONS + '?',) * 2)}|\p{{N}}{{1,3}}|{_SIGNS_AND_SLASHES}|{_SPACES}"),
        aliases=("llama4", "kanana2", "talkie", "minimax-m2"),
        is_exact=False,  # llama.cpp's classes of letters: capitals are those of ASCII
    ),
    PreTokenizer(
        "tekken",
        _split(rf"{_CASED % ('', '')}|\p{{N}}|{_SIGNS_AND_SLASHES}|{_SPACES}"),
        ignore_merges=True,
        is_exact=False,
    ),
)


def recognise(pre_tokenizer: Any, ignore_merges: bool) -> PreTokenizer | None:
    """Return the one that does the same with ``PROBE`` as a pre-tokenizer of ``tokenizers``; None if there is none."""
    pieces = pre_tokenizer.pre_tokenize_str(PROBE)
    for known in PRE_TOKENIZERS:
        if known.ignore_merges == ignore_merges and known.build().pre_tokenize_str(PROBE) == pieces:
            return known
    return None


def named(name: str) -> PreTokenizer | None:
    """Return the pre-tokenizer that GGUF calls ``name``; None if it is not in the table."""
    return next((known for known in PRE_TOKENIZERS if name == known.gguf or name in known.aliases), None)
