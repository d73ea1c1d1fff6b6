"""The section of a model card on loading: with slm, PEFT and transformers, and serving."""

from __future__ import annotations

import json
from dataclasses import dataclass
from shlex import quote

from slm_adapters.base.gguf.file import is_gguf_path
from slm_adapters.cards.markdown import code_block, escape

HERE = "."
NEW_TOKENS = 40


@dataclass(frozen=True)
class Base:
    """The base of an adapter, by a name that can be published.

    Attributes:
        name: The id on the hub, the name of a built-in base, or the last part of a folder's path.
        kind: ``hub``, ``built-in`` or ``local``.
        revision: Branch, tag or commit on the hub.
    """

    name: str
    kind: str
    revision: str | None = None

    @property
    def location(self) -> str:
        """What to load the base from; of a local folder only the last part is known."""
        return f"path/to/{self.name}" if self.kind == "local" else self.name


@dataclass(frozen=True)
class Usage:
    """What loading a folder takes.

    Attributes:
        base: The base of an adapter; None for a whole model.
        is_butterfly: Whether PEFT knows the method only with slm_adapters.
        loads_with_peft: Whether PEFT can load the adapter over any base that slm_adapters can.
        is_four_bit: Whether the adapter was trained over 4-bit weights.
        resizes_embeddings: Whether the adapter may have been trained with more rows of embeddings than its base has.
        prompt: The text that the examples continue, or the question that they ask.
        end_ids: The tokens that end an answer of a model trained on conversations; None if it was trained on others.
    """

    base: Base | None = None
    is_butterfly: bool = False
    loads_with_peft: bool = True
    is_four_bit: bool = False
    resizes_embeddings: bool = False
    prompt: str = "Once upon a time"
    end_ids: tuple[int, ...] | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter rather than a whole model."""
        return self.base is not None


def usage_sections(usage: Usage) -> list[str]:
    """Return the paragraphs on loading and serving. Their code runs in the model's folder."""
    opening = f"The code below is run in this folder; elsewhere, give its path instead of `{HERE}`."
    if usage.base is None:
        return ["## Use", opening, *_with_transformers(usage), *_served(f"slm-serve --model_path {HERE}")]
    return [
        "## Use",
        opening,
        *_notes(usage),
        *_with_slm(usage, usage.base),
        *(_with_peft(usage, usage.base) if usage.loads_with_peft else []),
        "With transformers alone, after merging:",
        _shell(f"slm-adapters merge {HERE} ../merged{_base_flag(usage.base)}"),
        *_served(_serve_command(usage.base)),
    ]


def _served(command: str) -> list[str]:
    return ["With slm-serve:", _shell(command)]


def _notes(usage: Usage) -> list[str]:
    notes = []
    if usage.base and usage.base.kind == "local":
        location = escape(usage.base.location)
        notes.append(f"The base is a local model: {location} stands for the path of a copy of it.")
    if usage.is_four_bit:
        notes.append(
            "The adapter was trained over 4-bit weights, in which slm-adapters loads the base (with bitsandbytes). "
            "Over the full weights, as PEFT loads them below, results differ slightly."
        )
    return notes


def _with_slm(usage: Usage, base: Base) -> list[str]:
    arguments = f'{_string(base.location)}, "{HERE}"' if base.kind == "local" else f'"{HERE}"'
    code = (
        "from slm_adapters import load\n\n"
        f"loaded = load({arguments})\nmodel, tokenizer = loaded.model, loaded.tokenizer\n{_generation(usage)}"
    )
    return ["With slm-adapters:", code_block(code, "python")]


def _with_peft(usage: Usage, base: Base) -> list[str]:
    imports = ["import slm_adapters  # PEFT knows butterflies after this import"] if usage.is_butterfly else []
    loads_itself = base.kind == "built-in" or is_gguf_path(base.name)
    if loads_itself:
        imports = imports or ["import slm_adapters"]
        where = "it is in slm-data" if base.kind == "built-in" else "the file's blocks as plain weights"
        load = f"base = slm_adapters.load({_string(base.location)}).model  # {where}"
    else:
        revision = f", revision={_string(base.revision)}" if base.revision else ""
        load = f"base = AutoModelForCausalLM.from_pretrained({_string(base.location)}{revision})"
    names = "AutoTokenizer" if loads_itself else "AutoModelForCausalLM, AutoTokenizer"
    resize = [
        "rows = max(tokenizer.get_vocab().values()) + 1",
        "base.resize_token_embeddings(max(rows, base.get_input_embeddings().num_embeddings))",
    ]
    lines = [
        *imports,
        "from peft import PeftModel",
        f"from transformers import {names}",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")',
        load,
        *(resize if usage.resizes_embeddings else []),
        f'model = PeftModel.from_pretrained(base, "{HERE}").eval()',
        _generation(usage),
    ]
    return ["With PEFT:", code_block("\n".join(lines), "python")]


def _with_transformers(usage: Usage) -> list[str]:
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{HERE}")\n{_generation(usage)}'
    )
    return ["With transformers:", code_block(code, "python")]


def _generation(usage: Usage) -> str:
    if usage.end_ids is not None:
        # Named here, because PEFT does not read the generation_config.json of an adapter.
        options = f"max_new_tokens={2 * NEW_TOKENS}, eos_token_id={list(usage.end_ids)}"
        return (
            f'messages = [{{"role": "user", "content": {_string(usage.prompt)}}}]\n'
            "inputs = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n'
            ")\n"
            f"print(tokenizer.decode(model.generate(**inputs, {options})[0]))"
        )
    return (
        f'ids = tokenizer({_string(usage.prompt)}, return_tensors="pt").input_ids\n'
        f"print(tokenizer.decode(model.generate(ids, max_new_tokens={NEW_TOKENS})[0]))"
    )


def _serve_command(base: Base) -> str:
    model = f"{quote(base.location)} --adapter_path {HERE}" if base.kind == "local" else HERE
    return f"slm-serve --model_path {model}"


def _base_flag(base: Base) -> str:
    return f" --base {quote(base.location)}" if base.kind == "local" else ""


def _shell(command: str) -> str:
    return code_block(command, "bash")


def _string(text: str) -> str:
    """Return a literal of Python."""
    return json.dumps(text, ensure_ascii=False)
