"""Comparison of two command lines of slm-train."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slm_lab.compare.command_lines import describe_difference

names = st.sampled_from(["block_size", "bf16", "train_file", "lora_r", "learning_rate"])
values = st.lists(st.text("abc019.", min_size=1, max_size=4), max_size=3)
flag_sets = st.dictionaries(names, values, max_size=5)


def to_words(flags: dict[str, list[str]]) -> list[str]:
    return [word for name, flag_words in flags.items() for word in (f"--{name}", *flag_words)]


@given(flag_sets)
def test_order_and_spelling_of_flags_make_no_difference(flags: dict[str, list[str]]) -> None:
    reversed_words = to_words(dict(reversed(flags.items())))
    assert describe_difference(to_words(flags), reversed_words) is None
    dashed = [word.replace("_", "-") if word.startswith("--") else word for word in to_words(flags)]
    assert describe_difference(to_words(flags), dashed) is None


@given(flag_sets, flag_sets)
def test_a_difference_names_a_flag_that_differs(old: dict[str, list[str]], new: dict[str, list[str]]) -> None:
    text = describe_difference(to_words(old), to_words(new))
    differing = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    assert bool(text) == bool(differing)
    assert not text or any(f"--{name}" in text for name in differing)


def test_the_folder_and_the_number_of_threads_make_no_difference() -> None:
    assert describe_difference(["--output_dir", "a", "--threads", "1"], ["--output_dir", "b", "--threads", "2"]) is None


def test_a_value_after_an_equals_sign_is_the_same_value() -> None:
    assert describe_difference(["--lora_r=4"], ["--lora_r", "4"]) is None
    assert describe_difference(["--lora_r=4"], ["--lora_r", "8"]) == "--lora_r 4 instead of --lora_r 8"
