"""The pieces of a text stream add up to the decoded text, without half characters or parts of a stop string."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_kv.engine.text_stream import WINDOW, TextStream
from slm_testing.kv.small_tokenizers import byte_level, metaspace

TOKENIZERS = {"byte level": byte_level(), "metaspace": metaspace()}
both = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())
texts = st.text(
    st.sampled_from("aehlt .\n") | st.sampled_from("你好é😀👍🏽\ufffd\u200d") | st.characters(codec="utf-8"),
    max_size=60,
)
few = st.text(st.sampled_from("ab 你😀"), max_size=30)
stops = st.lists(st.text(st.sampled_from("ab 你😀"), min_size=1, max_size=4), min_size=1, max_size=3)


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokenizer: Any, token_ids: list[int]) -> str:
    return str(tokenizer.decode(token_ids, skip_special_tokens=True))


def pieces(stream: TextStream, token_ids: list[int]) -> list[str]:
    return [*(stream.push(token) for token in token_ids), stream.finish()]


@both
@settings(max_examples=150, deadline=None)
@given(texts)
def test_the_pieces_are_the_decoded_text(tokenizer: Any, text: str) -> None:
    token_ids = encode(tokenizer, text)
    stream = TextStream(tokenizer)
    assert "".join(pieces(stream, token_ids)) == decode(tokenizer, token_ids) == stream.text
    assert not stream.stopped
    assert stream.finish() == ""


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 329), max_size=120) | st.lists(st.integers(1, 256), max_size=120))
def test_bytes_that_make_no_characters_are_decoded_the_same(token_ids: list[int]) -> None:
    tokenizer = TOKENIZERS["byte level"]
    assert "".join(pieces(TextStream(tokenizer), token_ids)) == decode(tokenizer, token_ids)


@both
@settings(max_examples=100, deadline=None)
@given(few.filter(bool), few)
def test_a_completion_continues_where_the_prompt_ended(tokenizer: Any, prompt: str, text: str) -> None:
    prompt_ids, token_ids = encode(tokenizer, prompt), encode(tokenizer, text)
    before, whole = decode(tokenizer, prompt_ids), decode(tokenizer, prompt_ids + token_ids)
    assert before + "".join(pieces(TextStream(tokenizer, prompt_ids=prompt_ids), token_ids)) == whole


def test_the_space_between_prompt_and_completion_is_kept() -> None:
    tokenizer = TOKENIZERS["metaspace"]
    stream = TextStream(tokenizer, prompt_ids=encode(tokenizer, "Hello"))
    assert "".join(pieces(stream, encode(tokenizer, "world"))) == " world"
    assert "".join(pieces(TextStream(tokenizer), encode(tokenizer, "world"))) == "world"


@both
def test_a_character_is_emitted_whole_with_its_last_token(tokenizer: Any) -> None:
    token_ids = encode(tokenizer, "a𓀀b")
    emitted = [piece for piece in pieces(TextStream(tokenizer), token_ids) if piece]
    assert emitted == ["a", "𓀀", "b"]


def test_half_a_character_in_the_prompt_is_completed_and_a_real_replacement_mark_is_not_repeated() -> None:
    tokenizer = TOKENIZERS["byte level"]
    halves = encode(tokenizer, "𓀀")
    assert "".join(pieces(TextStream(tokenizer, prompt_ids=halves[:2]), halves[2:])) == "𓀀"
    marked = TextStream(tokenizer, prompt_ids=encode(tokenizer, "a\ufffd"))
    assert "".join(pieces(marked, encode(tokenizer, "bc"))) == "bc"


def test_an_unfinished_character_is_emitted_at_the_end() -> None:
    tokenizer = TOKENIZERS["byte level"]
    stream = TextStream(tokenizer)
    assert "".join(stream.push(token) for token in encode(tokenizer, "a𓀀")[:-1]) == "a"
    assert stream.finish() == "\ufffd"
    assert stream.text == "a\ufffd"


def until_stop(text: str, stop: list[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there is one, found by reading one character at a time."""
    for end in range(len(text) + 1):
        starts = [end - len(string) for string in stop if text[:end].endswith(string)]
        if starts:
            return text[: min(starts)], True
    return text, False


@both
@settings(max_examples=200, deadline=None)
@given(few, stops)
def test_text_ends_before_the_first_stop_string(tokenizer: Any, text: str, stop: list[str]) -> None:
    token_ids = encode(tokenizer, text)
    expected, stopped = until_stop(decode(tokenizer, token_ids), stop)
    stream, emitted = TextStream(tokenizer, tuple(stop)), ""
    for token in token_ids:
        emitted += stream.push(token)
        assert expected.startswith(emitted)
    assert emitted + stream.finish() == expected == stream.text
    assert stream.stopped is stopped
    if stopped:
        assert stream.push(token_ids[0]) == stream.finish() == ""


def test_the_stop_string_that_is_complete_first_counts_also_within_one_token() -> None:
    class Words:
        all_special_ids = ()

        def decode(self, token_ids: list[int], **_: Any) -> str:
            return "".join("xabcd"[token:] for token in token_ids)

    words: Any = Words()
    assert pieces(TextStream(words, ("abcd", "bc")), [0]) == ["xa", ""]


def test_text_that_may_begin_a_stop_string_is_held_back_until_decided() -> None:
    tokenizer = TOKENIZERS["byte level"]
    letters = [encode(tokenizer, letter)[0] for letter in "xaab"]
    stream = TextStream(tokenizer, ("aac",))
    assert [stream.push(token) for token in letters] == ["x", "", "", "aab"]
    unfinished = TextStream(tokenizer, ("aac",))
    assert [unfinished.push(token) for token in letters[:3]] == ["x", "", ""]
    assert unfinished.finish() == "aa"


def test_special_tokens_and_a_missing_tokenizer_give_no_text() -> None:
    tokenizer = TOKENIZERS["byte level"]
    end = tokenizer.eos_token_id
    assert pieces(TextStream(tokenizer), [end, *encode(tokenizer, "a"), end]) == ["", "a", "", ""]
    silent = TextStream(None, ("a",), [1, 2])
    assert (pieces(silent, [3, 4]), silent.text, silent.stopped) == (["", "", ""], "", False)


@both
@pytest.mark.parametrize("text", ["the cat sat " * 100, "你好世界😀" * 100, "    " * 100, "a𓀀" * 100])
def test_each_token_decodes_a_short_window_however_long_the_text(tokenizer: Any, text: str) -> None:
    class Counting:
        all_special_ids = tokenizer.all_special_ids
        longest = 0

        def decode(self, token_ids: list[int], **options: Any) -> str:
            self.longest = max(self.longest, len(token_ids))
            return str(tokenizer.decode(token_ids, **options))

    counting: Any = Counting()
    token_ids = encode(tokenizer, text)
    assert "".join(pieces(TextStream(counting), token_ids)) == decode(tokenizer, token_ids)
    assert counting.longest <= 2 * WINDOW


def test_endless_bytes_that_make_no_characters_keep_the_window_short() -> None:
    tokenizer, lengths = TOKENIZERS["byte level"], []
    byte = encode(tokenizer, "𓀀")[1]
    stream = TextStream(tokenizer)
    for _ in range(1000):
        stream.push(byte)
        lengths.append(len(stream._window))
    stream.finish()
    assert stream.text == decode(tokenizer, [byte] * 1000)
    assert max(lengths) <= 5 * WINDOW


def test_without_may_stop_a_stop_string_is_ignored_and_nothing_is_held_back() -> None:
    tokenizer = TOKENIZERS["byte level"]
    stream = TextStream(tokenizer, ("b",))
    tokens = encode(tokenizer, "abcab")
    assert "".join(stream.push(token, may_stop=False) for token in tokens[:3]) == "abc"[: len(stream.text)]
    assert not stream.stopped
    for token in tokens[3:]:
        stream.push(token)
    assert (stream.text, stream.stopped) == ("abca", True)
