"""Where in a rendered conversation the model writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_data.errors import DataError
from slm_data.examples.common_text import common_prefix, common_suffix
from slm_data.examples.rendering import ChatRenderer
from slm_data.examples.templates import CHATML_TEMPLATE, PLAIN_TEMPLATE, ChatTemplate
from slm_data.examples.types import Conversation, Message

# Templates in the manner of model families, each with a peculiarity.
BRACKETS = (  # strips contents, writes a space before an answer, and ends it with the end-of-text token
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TURNS = (  # another name for the assistant, and strips contents
    "{% for m in messages %}{{ '<turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
    "+ m['content'] | trim + '<end>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
THINKING = (  # removes the reasoning of all answers but the last
    "{% for m in messages %}{% set parts = m['content'].split('</think>') %}{{ '<s>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% if loop.last %}{{ '<think>\n' + (parts[0].split('<think>')[-1].strip('\n') "
    "if parts | length > 1 else '') + '\n</think>\n\n' }}{% endif %}{{ parts[-1].lstrip('\n') }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<e>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def render(template: str, end: str | None, *turns: str, has_token: bool = True) -> tuple[str, list[str]]:
    """The text of a conversation that begins with the user, and its scored parts."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], turn, is_completion=i % 2 == 1) for i, turn in enumerate(turns))
    renderer = ChatRenderer(ChatTemplate("test", template), end, has_token, {"bos_token": "<s>", "eos_token": "</s>"})
    rendered = renderer(Conversation(messages, "f, line 1"))
    return rendered.text, [rendered.text[start:end] for start, end in rendered.scored]


@pytest.mark.parametrize(
    ("template", "end", "turns", "scored"),
    [
        (CHATML_TEMPLATE, "<|im_end|>", ("a", "b", "c", "d"), ["b<|im_end|>", "d<|im_end|>"]),
        (CHATML_TEMPLATE, "<|im_end|>", ("b", " b\n", "b", "b"), [" b\n<|im_end|>", "b<|im_end|>"]),
        (BRACKETS, "</s>", (" a", " b ", "c", "b"), [" b </s>", " b </s>"]),
        (TURNS, "<end>", ("a", "\nb ", "a", "a"), ["b<end>", "a<end>"]),
        (THINKING, "<e>", ("a", "<think>\nr\n</think>\n\nb", "c", "d"), ["b<e>", "<think>\n\n</think>\n\nd<e>"]),
        (THINKING, "<e>", ("a", "<think>\nr\n</think>\n\nb"), ["<think>\nr\n</think>\n\nb<e>"]),
    ],
)
def test_the_content_of_answers_and_their_end_are_scored(
    template: str, end: str, turns: tuple[str, ...], scored: list[str]
) -> None:
    assert render(template, end, *turns)[1] == scored


def test_in_the_plain_format_an_answer_begins_with_the_space_after_its_speaker() -> None:
    text, scored = render(PLAIN_TEMPLATE, None, "a", "b", "c", "d", has_token=False)
    assert text == "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant: d"
    assert scored == [" b", " d"]


def test_without_a_token_for_its_end_the_last_answer_extends_to_the_end_of_the_text() -> None:
    _, scored = render(CHATML_TEMPLATE, "<|im_end|>", "a", "b", "c", "d", has_token=False)
    assert scored == ["b<|im_end|>", "d<|im_end|>\n"]


contents = st.text(st.sampled_from("ab \n\ue000<|im_end|>é🙂"), min_size=1, max_size=12)


@given(st.lists(contents, min_size=2, max_size=6))
def test_whatever_the_messages_say_exactly_the_answers_are_scored(turns: list[str]) -> None:
    text, scored = render(CHATML_TEMPLATE, "<|im_end|>", *turns)
    assert scored == [f"{turn}<|im_end|>" for turn in turns[1::2] if turn.strip()]  # a blank one is no answer
    assert text == "".join(
        f"<|im_start|>{('user', 'assistant')[i % 2]}\n{turn}<|im_end|>\n" for i, turn in enumerate(turns)
    )


@given(st.text("ab", max_size=40), st.text("ab", max_size=40))
def test_common_beginnings_and_ends_are_as_long_as_possible(first: str, second: str) -> None:
    length = common_prefix(first, second)
    assert first[:length] == second[:length]
    assert first[length : length + 1] != second[length : length + 1] or length == min(len(first), len(second))
    assert common_suffix(first[::-1], second[::-1]) == length


def test_a_template_that_rejects_the_messages_or_leaves_an_answer_out_is_refused_with_the_line() -> None:
    with pytest.raises(DataError, match=r"f, line 1: .*rejects the messages \(no users here\)"):
        render("{{ raise_exception('no users here') }}{{ messages }}", "x", "a", "b")
    with pytest.raises(DataError, match=r"f, line 1: .*leaves out message 2"):
        render("{{ messages[0]['content'] }}", "x", "a", "b")


def test_a_template_with_todays_date_renders_the_same_text_every_day() -> None:
    text, _ = render("{{ strftime_now('%d %b %Y') }}" + CHATML_TEMPLATE, "<|im_end|>", "a", "b")
    assert text.startswith("26 Jul 2024<|im_start|>")
