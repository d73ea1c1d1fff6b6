"""Chat templates with tools, in the manner of several families of models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ToolFamily:
    """A chat template with tools, and how its models write calls.

    Attributes:
        source: The template.
        one: The text of one call of ``f`` with the arguments ``{"a": 1}``.
        two: The text of two such calls; None if there is only one call at a time.
        tokens: Special tokens of the family's own vocabulary.
    """

    source: str
    one: str
    two: str | None
    tokens: tuple[str, ...] = ()


def _chatml(calls: str, tools: str = "<tools>\\n' + (tools | tojson) + '\\n</tools>") -> str:
    """ChatML with the tools in the system message, and with ``calls`` after the content of the assistant."""
    return (
        """\
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n\\n' -}}{%- endif -%}
    {{- 'You may call functions.\\n"""
        + tools
        + """<|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' and message.tool_calls -%}
        {{- '<|im_start|>assistant' + ('\\n' + message.content if message.content else '') -}}
"""
        + calls
        + """
        {{- '<|im_end|>\\n' -}}
    {%- elif message.role == 'tool' -%}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' -}}
    {%- elif message.role != 'system' or not loop.first -%}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
    )


_HERMES = _chatml(
    """\
        {%- for tool_call in message.tool_calls -%}
            {%- set call = tool_call.function -%}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' + (call.arguments | tojson) -}}
            {{- '}\\n</tool_call>' -}}
        {%- endfor -%}"""
)

_LIST = _chatml(
    """\
        {{- '\\n<tool_call>[' -}}
        {%- for tool_call in message.tool_calls -%}
            {{- ', ' if not loop.first -}}
            {{- '{"name": "' + tool_call.function.name + '", "arguments": ' -}}
            {{- (tool_call.function.arguments | tojson) + '}' -}}
        {%- endfor -%}
        {{- ']</tool_call>' -}}"""
)

_FUNCTION_TAGS = _chatml(
    """\
        {%- for tool_call in message.tool_calls -%}
            {{- '\\n<function=' + tool_call.function.name + '>' + (tool_call.function.arguments | tojson) -}}
            {{- '</function>' -}}
        {%- endfor -%}"""
)

_LLAMA_3 = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.tool_calls -%}
        {%- if message.tool_calls | length != 1 -%}
            {{- raise_exception('This model only supports single tool-calls at once!') -}}
        {%- endif -%}
        {%- set call = message.tool_calls[0].function -%}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}<|eot_id|>' -}}
    {%- elif message.role == 'tool' -%}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' -}}
    {%- else -%}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}
        {%- if message.role == 'user' and loop.first and tools -%}
            {{- 'Given the following functions, answer with JSON for a function call.\\n\\n' -}}
            {%- for tool in tools -%}{{- (tool | tojson(indent=4)) + '\\n\\n' -}}{%- endfor -%}
        {%- endif -%}
        {{- message.content | trim + '<|eot_id|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""

_MISTRAL = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {%- if tools and loop.first -%}
            {{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' -}}
        {%- endif -%}
        {{- '[INST] ' + message.content + '[/INST]' -}}
    {%- elif message.tool_calls -%}
        {{- '[TOOL_CALLS] [' -}}
        {%- for tool_call in message.tool_calls -%}
            {%- if tool_call.id is not defined or tool_call.id | length != 9 -%}
                {{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') -}}
            {%- endif -%}
            {%- set call = (tool_call.function | tojson)[:-1] -%}
            {{- call + ', "id": "' + tool_call.id + '"}' + (']' + eos_token if loop.last else ', ') -}}
        {%- endfor -%}
    {%- elif message.role == 'assistant' -%}
        {{- ' ' + message.content + eos_token -}}
    {%- elif message.role == 'tool' -%}
        {{- '[TOOL_RESULTS] {"content": ' + message.content + ', "call_id": "' + message.tool_call_id -}}
        {{- '"}[/TOOL_RESULTS]' -}}
    {%- endif -%}
{%- endfor -%}"""

_CALL = '{"name": "f", "arguments": {"a": 1}}'
TOOL_FAMILIES = {
    "hermes": ToolFamily(
        _HERMES,
        f"<tool_call>\n{_CALL}\n</tool_call>",
        f"<tool_call>\n{_CALL}\n</tool_call>\n<tool_call>\n{_CALL}\n</tool_call>",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "hermes with tokens": ToolFamily(
        _HERMES,
        f"<tool_call>\n{_CALL}\n</tool_call>",
        f"<tool_call>\n{_CALL}\n</tool_call>\n<tool_call>\n{_CALL}\n</tool_call>",
        ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"),
    ),
    "list": ToolFamily(_LIST, f"<tool_call>[{_CALL}]</tool_call>", f"<tool_call>[{_CALL}, {_CALL}]</tool_call>"),
    "function tags": ToolFamily(
        _FUNCTION_TAGS,
        '<function=f>{"a": 1}</function>',
        '<function=f>{"a": 1}</function>\n<function=f>{"a": 1}</function>',
    ),
    "llama": ToolFamily(
        _LLAMA_3,
        '{"name": "f", "parameters": {"a": 1}}',
        None,
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
    ),
    "mistral": ToolFamily(
        _MISTRAL,
        f"[TOOL_CALLS] [{_CALL}]",
        f"[TOOL_CALLS] [{_CALL}, {_CALL}]",
        ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    ),
}
