"""Choosing, saving and inspecting chat templates."""

import copy
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from slm_data import DataError
from slm_data.examples.templates import (
    CHATML_TEMPLATE,
    PLAIN_TEMPLATE,
    ChatTemplate,
    choose_template,
    end_of_turn,
    missing_tokens,
    saved_template,
)
from slm_testing.data.chat_templates import FAMILIES, Family

SPEAKERS = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
CHATS: list[list[tuple[str, str]]] = [
    [("user", "Hello!")],
    [("system", "Be kind."), ("user", "Hello!"), ("assistant", "Hi.\n\nHow are you?"), ("user", " fine\n")],
    [("developer", "Be kind."), ("user", "{{ 7 * 7 }} {% raw %} <|im_end|> \\n"), ("assistant", "")],
]


@pytest.fixture
def own(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer, to be changed by a test."""
    return copy.deepcopy(tokenizer)


def rendered(source: str, chat: list[tuple[str, str]], tokenizer: Any, **variables: Any) -> str:
    messages = [{"role": role, "content": content} for role, content in chat]
    return str(tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **variables))


@pytest.mark.parametrize("chat", CHATS)
def test_the_plain_format_is_paragraphs_that_begin_with_the_speaker(
    chat: list[tuple[str, str]], tokenizer: PreTrainedTokenizerBase
) -> None:
    paragraphs = [f"{SPEAKERS[role]}: {content}" for role, content in chat]
    assert rendered(PLAIN_TEMPLATE, chat, tokenizer) == "\n\n".join(paragraphs)
    prompt = rendered(PLAIN_TEMPLATE, chat, tokenizer, add_generation_prompt=True)
    assert prompt == "\n\n".join([*paragraphs, "Assistant:"])


def test_an_answer_follows_the_plain_prompt_without_a_seam(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = [("user", "Hello!")]
    prompt = rendered(PLAIN_TEMPLATE, chat, tokenizer, add_generation_prompt=True)
    assert rendered(PLAIN_TEMPLATE, [*chat, ("assistant", "Hi.")], tokenizer) == prompt + " Hi."


def test_the_plain_format_refuses_roles_that_it_does_not_know(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TemplateError, match="no role tool"):
        rendered(PLAIN_TEMPLATE, [("tool", "42")], tokenizer)


@pytest.mark.parametrize("flag", [None, "plain"])
def test_without_a_template_the_plain_format_is_used(flag: str | None, tokenizer: PreTrainedTokenizerBase) -> None:
    template = choose_template(flag, tokenizer)
    assert template.is_plain
    assert template.source == PLAIN_TEMPLATE


def test_the_tokenizers_own_template_is_the_default(own: PreTrainedTokenizerBase) -> None:
    own.chat_template = FAMILIES["gemma"].source
    assert choose_template(None, own).source == FAMILIES["gemma"].source
    assert choose_template("plain", own).is_plain


def test_of_several_templates_the_default_is_used(own: PreTrainedTokenizerBase) -> None:
    templates: Any = {"tool_use": "{{ messages }}", "default": CHATML_TEMPLATE}
    own.chat_template = templates
    assert choose_template(None, own).source == CHATML_TEMPLATE
    del templates["default"]
    assert choose_template(None, own).source == "{{ messages }}"
    templates["rag"] = "{{ messages }}"
    with pytest.raises(DataError, match=r"2 chat templates \(tool_use, rag\) and none is the default"):
        choose_template(None, own)


def test_chatml_begins_with_the_start_token_where_the_tokenizer_adds_one(tokenizer: PreTrainedTokenizerBase) -> None:
    template = choose_template("chatml", tokenizer)
    prompt = rendered(template.source, [("user", "Hi")], tokenizer, add_generation_prompt=True)
    assert prompt == "<|startoftext|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_file_is_a_template(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    file = tmp_path / "gemma.jinja"
    file.write_text("\ufeff" + FAMILIES["gemma"].source, encoding="utf-8")
    template = choose_template(str(file), tokenizer)
    assert template == ChatTemplate(str(file), FAMILIES["gemma"].source)
    assert not template.is_plain


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a file; give a Jinja file, chatml or plain"),
        (b"", "never uses 'messages'"),
        (b"Once upon a time", "never uses 'messages'"),
        (b"{% for m in messages %}\n{{ m.content }", "error in line 2"),
        (b"{% for m in messages %}{{ m.content }}", "error in line 1"),
        ("{{ messages }} \xe9".encode("latin-1"), "cannot be read as UTF-8"),
    ],
)
def test_a_file_that_is_no_template_is_refused(
    content: bytes | None, message: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    file = tmp_path / "chat.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        choose_template(str(file), tokenizer)
    assert str(file) in str(error.value)


def test_a_folder_is_not_a_template(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="is not a file"):
        choose_template(str(tmp_path), tokenizer)


def test_the_saved_plain_template_writes_the_start_token(own: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    own.chat_template = saved_template(choose_template("plain", own), own)
    own.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "Who took my boat?"}]
    ids = loaded.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert ids == own("User: Who took my boat?\n\nAssistant:")["input_ids"]
    reloaded = choose_template(None, loaded)
    assert reloaded.source == PLAIN_TEMPLATE
    assert saved_template(reloaded, loaded) == own.chat_template


def test_a_template_is_saved_as_it_is_for_a_tokenizer_without_a_start_token(own: PreTrainedTokenizerBase) -> None:
    own.bos_token = None
    assert saved_template(choose_template("plain", own), own) == PLAIN_TEMPLATE
    family = ChatTemplate("family", FAMILIES["zephyr"].source)
    assert saved_template(family, own) == family.source


@pytest.mark.parametrize("name", FAMILIES)
def test_the_end_of_a_turn_is_found(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    family = FAMILIES[name]
    expected = tokenizer.eos_token if family.end == "eos_token" else family.end
    assert end_of_turn(ChatTemplate(name, family.source), tokenizer) == expected


def test_a_special_token_of_the_vocabulary_goes_before_a_marker(own: PreTrainedTokenizerBase) -> None:
    source = "{% for m in messages %}{{ m.content }}<|sep|><|end|><|endoftext|>{% endfor %}"
    assert end_of_turn(ChatTemplate("t", source), own) == "<|endoftext|>"
    own.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    assert end_of_turn(ChatTemplate("t", source), own) == "<|end|>"


@pytest.mark.parametrize("name", FAMILIES)
def test_markers_that_are_no_tokens_are_missing(name: str, own: PreTrainedTokenizerBase) -> None:
    family: Family = FAMILIES[name]
    template = ChatTemplate(name, family.source)
    assert set(missing_tokens(template, own)) == set(family.tokens)
    own.add_special_tokens({"additional_special_tokens": list(family.tokens)})
    assert missing_tokens(template, own) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "does not write what the assistant"),
        ("{{ raise_exception('no ' ~ messages[0].role) }}", "no user"),
        ("{{ messages + 1 }}", "does not render"),
    ],
)
def test_a_template_that_cannot_show_an_answer_is_refused(
    source: str, message: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(DataError, match=message):
        end_of_turn(ChatTemplate("t.jinja", source), tokenizer)
