"""The way in which a model writes calls is read from its chat template."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from slm_data import ChatTemplate, sample_base
from slm_serve.errors import RequestError
from slm_serve.http.tools.call_format import call_format
from slm_testing.data.chat_templates import FAMILIES
from slm_testing.data.tool_templates import TOOL_FAMILIES


def tokenizer_with(*tokens: str) -> Any:
    return AutoTokenizer.from_pretrained(sample_base(), additional_special_tokens=list(tokens))


@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_calls_are_written_as_in_the_template(name: str) -> None:
    family = TOOL_FAMILIES[name]
    form = call_format(ChatTemplate(name, family.source), tokenizer_with(*family.tokens))
    call = "f" + form.middle + '{"a": 1}'
    assert form.prefix + call + form.suffix == family.one
    assert (form.separator and form.prefix + call + form.separator + call + form.suffix) == family.two
    assert form.short_ids == (name == "mistral")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_template_without_tools_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="the model's chat template has no tools") as error:
        call_format(ChatTemplate(name, FAMILIES[name].source), tokenizer_with())
    assert (error.value.status, error.value.param) == (422, "tools")


UNREADABLE = {
    "keeps calls to itself": "{{ messages[0].content }}{{ tools }}",
    "arguments as python": "{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %})"
    "{% endfor %}{% endfor %}",
    "arguments before the name": "{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.arguments | tojson }}{{ c.function.name }}{% endfor %}{% endfor %}",
    "ids in the calls": "{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<call {{ c.id }}>{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("source", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_template_whose_calls_cannot_be_read_is_refused(source: str) -> None:
    with pytest.raises(RequestError, match="writes calls in a way that this server cannot read"):
        call_format(ChatTemplate("own", source), tokenizer_with())


def test_a_template_that_joins_arguments_as_text_is_read() -> None:
    source = (
        "{{ tools }}{% for m in messages %}{{ m.role + m.content }}{% for c in m.tool_calls or [] %}"
        "{{ '<call>' + c.function.name + '<sep>' + c.function.arguments + '</call>' }}{% endfor %}|{% endfor %}"
    )
    form = call_format(ChatTemplate("own", source), tokenizer_with())
    assert (form.prefix, form.middle, form.separator, form.suffix) == ("<call>", "<sep>", "</call><call>", "</call>")


def test_a_template_that_rejects_tools_is_refused() -> None:
    source = "{% if tools %}{{ raise_exception('no tools please') }}{% endif %}{{ messages[0].content }}"
    with pytest.raises(RequestError, match="rejects tools: no tools please"):
        call_format(ChatTemplate("own", source), tokenizer_with())
