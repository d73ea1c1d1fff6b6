"""Bytes and positions of tokens, for tokenizers of both kinds that split characters into bytes."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from slm_data import sample_base
from slm_kv import TextStream
from slm_serve.http.token_decoder import TextOffsets, TokenDecoder

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab é☃🌨👩‍🚀 \n▁"), min_size=1, max_size=12)
KINDS = ["byte-level", "sentencepiece"]


def sentencepiece_like() -> Any:
    """Return a tokenizer in the manner of Llama 2: words begin with ▁, and unknown characters become byte tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "é", "ab"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    model = models.BPE(vocabulary, [("▁", "a"), ("a", "b")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {"byte-level": AutoTokenizer.from_pretrained(sample_base()), "sentencepiece": sentencepiece_like()}


BYTES = [[*(3 + byte for byte in character.encode()), 261] for character in "☃🌨\n"]
# A stream of SentencePiece's tokens changes what it has sent if a run of bytes turns out to be invalid after some that
# were not, so each run ends after one character or invalid byte.
PIECES = st.sampled_from([*BYTES, [261], [262], [263], [3 + 0xFF, 261]])
TOKENS = {
    "byte-level": st.lists(st.integers(3, len(TOKENIZERS["byte-level"]) - 1), max_size=8),
    "sentencepiece": st.lists(PIECES, max_size=4).map(lambda pieces: [token for piece in pieces for token in piece]),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(text=TEXTS)
def test_the_bytes_of_all_tokens_are_those_of_the_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    decoder, ids = TokenDecoder(tokenizer), tokenizer(text, add_special_tokens=False)["input_ids"]
    joined = b"".join(map(decoder.bytes, ids))
    # SentencePiece writes a space before the text, and every ▁ of the text as a space.
    expected = text if kind == "byte-level" else " " + text.replace("▁", " ")
    assert joined == expected.encode()


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(text=TEXTS)
def test_the_slices_between_the_offsets_of_tokens_are_the_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    decoder, ids = TokenDecoder(tokenizer), tokenizer(text, add_special_tokens=False)["input_ids"]
    decoded = tokenizer.decode(ids)
    offsets = TextOffsets(decoder, starts_text=True)
    starts = [offsets.add(token_id) for token_id in ids]
    assert starts == sorted(starts)
    assert offsets.position == len(decoded)
    slices = [decoded[start:end] for start, end in pairwise([*starts, len(decoded)])]
    assert "".join(slices) == decoded
    for number, (token_id, part) in enumerate(zip(ids, slices, strict=True)):
        token_text = decoder.text(token_id)
        if "\ufffd" not in token_text:
            assert part == (token_text.removeprefix(" ") if kind == "sentencepiece" and number == 0 else token_text)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(prompt=TEXTS, data=st.data())
def test_offsets_after_a_prompt_count_the_characters_that_a_stream_adds(kind: str, prompt: str, data: Any) -> None:
    """Also for tokens that are not the encoding of any text, as a model may write them."""
    tokenizer = TOKENIZERS[kind]
    # Bytes that are not valid would also change the bytes at the end of a prompt, in SentencePiece.
    end = "a" if kind == "sentencepiece" else ""
    decoder, prompt_ids = TokenDecoder(tokenizer), tokenizer(prompt + end, add_special_tokens=False)["input_ids"]
    ids = [*data.draw(TOKENS[kind]), *tokenizer("a b")["input_ids"]]
    stream = TextStream(tokenizer, prompt_ids=prompt_ids)
    offsets = TextOffsets(decoder)
    offsets.begin_after(prompt_ids)
    for token_id in ids:
        offsets.add(token_id)
        stream.push(token_id)
    stream.finish()
    assert offsets.position == len(stream.text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_adds_no_bytes_and_an_added_one_its_text(kind: str) -> None:
    tokenizer = sentencepiece_like() if kind == "sentencepiece" else AutoTokenizer.from_pretrained(sample_base())
    tokenizer.add_tokens(["<think>"])
    decoder = TokenDecoder(tokenizer)
    assert decoder.bytes(tokenizer.eos_token_id) == b""
    assert decoder.bytes(len(tokenizer) - 1) == b"<think>"
