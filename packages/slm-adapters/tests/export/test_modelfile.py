"""The Modelfile: recognised chat formats as Go templates, system messages and stops."""

import re
from typing import Any

import pytest

from slm_adapters.export.ollama.chat_formats import ChatFormat, formats, recognise_format
from slm_adapters.export.ollama.modelfile import render_modelfile
from slm_adapters.export.tokens.special_tokens import SpecialTokens
from slm_testing.export_models import CHATML, byte_level_tokenizer

SPECIAL = SpecialTokens((1,), 0, None, 1, adds_bos=False, adds_eos=False)
MESSAGES = [
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Me."},
    {"role": "user", "content": "Why?"},
]


def jinja_of(known: ChatFormat) -> str:
    """Return a chat template that renders ``known``, written independently of its Go template."""
    turns = "".join(
        f"{{% if message['role'] == '{role}' %}}{{{{ {before!r} + message['content'] + {after!r} }}}}{{% endif %}}"
        for role, (before, after) in known.marks.items()
    )
    body = f"{{% for message in messages %}}{turns}{{{{ {known.joint!r} }}}}{{% endfor %}}"
    return f"{body}{{% if add_generation_prompt %}}{{{{ {known.answer!r} }}}}{{% endif %}}"


def render_go(template: str, messages: list[dict[str, str]]) -> str:
    """Render the part of Go's templates that a Modelfile uses: one range over messages, and tests of their role."""
    match = re.fullmatch(r"(.*?)\{\{- range \.Messages \}\}(.*)\{\{ end \}\}(.*)", template, re.DOTALL)
    assert match is not None
    start, turn, answer = match.groups()
    text = start
    for message in messages:
        case = r'\{\{ if eq \.Role "(\w+)" \}\}(.*?)\{\{ end \}\}'
        text += re.sub(case, lambda m, message=message: m[2] if m[1] == message["role"] else "", turn, flags=re.DOTALL)
        text = text.replace("{{ .Content }}", message["content"])
    return text + answer


@pytest.mark.parametrize("known", formats("</s>"), ids=lambda known: known.name)
def test_a_known_format_is_recognised_and_its_go_template_renders_the_same_text(known: ChatFormat) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = jinja_of(known)
    found = recognise_format(tokenizer)
    assert found is not None
    assert (found.format.name, found.system) == (known.name, None)
    expected = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert render_go(found.format.go_template, MESSAGES) == expected


def test_a_default_system_message_becomes_SYSTEM() -> None:
    tokenizer = byte_level_tokenizer()
    default = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    tokenizer.chat_template = default + CHATML
    modelfile = render_modelfile("a-f16.gguf", tokenizer, SPECIAL)
    assert 'SYSTEM """Be kind."""' in modelfile
    assert modelfile.startswith('FROM ./a-f16.gguf\nTEMPLATE """{{- range .Messages }}')
    assert modelfile.endswith('PARAMETER stop "</s>"\n')


@pytest.mark.parametrize(("adds_bos", "start"), [(False, "<s>"), (True, "")])
def test_a_start_token_is_in_the_template_unless_llama_cpp_adds_it(adds_bos: bool, start: str) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    special = SpecialTokens((1,), 0, None, 1, adds_bos=adds_bos, adds_eos=False)
    assert f'TEMPLATE """{start}{{{{- range' in render_modelfile("a.gguf", tokenizer, special)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0]['content'] }}", "# The chat template is none that this program can write for Ollama"),
        (None, 'TEMPLATE """{{ .Prompt }}"""'),
    ],
)
def test_other_templates_are_left_to_ollama(template: Any, expected: str) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    assert expected in render_modelfile("a.gguf", tokenizer, SPECIAL)


def test_the_plain_format_stops_where_the_next_speaker_begins() -> None:
    tokenizer = byte_level_tokenizer()
    known = next(known for known in formats("") if known.name == "plain")
    tokenizer.chat_template = jinja_of(known)
    assert 'PARAMETER stop "\\nUser:"\n' in render_modelfile("a.gguf", tokenizer, SPECIAL)
