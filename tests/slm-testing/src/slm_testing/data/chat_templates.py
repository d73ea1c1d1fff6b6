"""Chat templates in the manner of several families of models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A chat template.

    Attributes:
        source: The template.
        end: What ends the assistant's turn; None if nothing does.
        tokens: The markers that it writes, which are special tokens of the family's own vocabulary.
        takes_system: Whether it accepts system messages.
    """

    source: str
    end: str | None
    tokens: tuple[str, ...] = ()
    takes_system: bool = True


_LLAMA_2 = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set rest = messages[1:] -%}
    {%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
{%- else -%}
    {%- set rest = messages -%}
    {%- set system = '' -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('user and assistant must alternate') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{- bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' + message['content'].strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}"""

_LLAMA_3 = """\
{{- bos_token -}}
{%- for message in messages -%}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
    {{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}"""

_GEMMA = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- raise_exception('System role not supported') -}}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"""

# Thoughts of earlier turns are left out; the last answer always has some, empty if there are none.
_THINKING = """\
{%- set ns = namespace(last_query=-1) -%}
{%- for message in messages if message.role == 'user' -%}{%- set ns.last_query = loop.index0 -%}{%- endfor -%}
{%- set queries = namespace(seen=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{%- set queries.seen = queries.seen + 1 -%}{%- endif -%}
    {%- if message.role == 'assistant' -%}
        {%- set content = message.content -%}
        {%- set thoughts = '' -%}
        {%- if '</think>' in content -%}
            {%- set thoughts = content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if queries.seen == ns.last_query -%}
            {{- '<think>\\n' + thoughts + '\\n</think>\\n\\n' -}}
        {%- endif -%}
        {{- content + '<|im_end|>\\n' -}}
    {%- else -%}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}"""

_ZEPHYR = """\
{% for message in messages %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

_MARKED = """\
{% for message in messages %}
    {%- if message['role'] == 'assistant' -%}
        {{- '<|assistant|>' -}}
        {%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
    {%- else -%}
        {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""

_INSTRUCTION = """\
{% for message in messages -%}
{{- '### ' + ('Response' if message['role'] == 'assistant' else 'Instruction') -}}
{{- ':\\n' + message['content'] + '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"""

FAMILIES = {
    "llama-2": Family(_LLAMA_2, "eos_token"),
    "llama-3": Family(_LLAMA_3, "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "gemma": Family(_GEMMA, "<end_of_turn>", ("<start_of_turn>", "<end_of_turn>"), takes_system=False),
    "thinking": Family(_THINKING, "<|im_end|>", ("<|im_start|>", "<|im_end|>")),
    "zephyr": Family(_ZEPHYR, "eos_token", ("<|system|>", "<|user|>", "<|assistant|>")),
    "generation markers": Family(_MARKED, "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "instruction": Family(_INSTRUCTION, None),
}
