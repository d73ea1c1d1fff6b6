"""How the conversations of a run are written, and which tokens end an answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from slm_data import PLAIN_STOPS, ChatTemplate, DataError


@dataclass(frozen=True)
class ChatFormat:
    """How conversations are written.

    Attributes:
        template: The chat template.
        end_of_turn: The text that ends an answer; None if the template writes none.
        end_of_turn_id: Its token; None if it is spelled out in several.
        eos_id: The end-of-text token, which ends an answer as well.
        system: The system message with which samples of the model begin; None if the conversations have none.
    """

    template: ChatTemplate
    end_of_turn: str | None
    end_of_turn_id: int | None
    eos_id: int | None
    system: str | None = None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return tuple(dict.fromkeys(token for token in (self.eos_id, self.end_of_turn_id) if token is not None))

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer where no token does."""
        if self.template.is_plain:
            return PLAIN_STOPS
        return (self.end_of_turn,) if self.end_of_turn and self.end_of_turn_id is None else ()

    def prompt_text(self, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
        """Return the text that the assistant continues to answer ``question``.

        Raises DataError if the template rejects the messages.
        """
        system = [{"role": "system", "content": self.system}] if self.system else []
        turns = [*system, {"role": "user", "content": question}]
        try:
            text = tokenizer.apply_chat_template(
                turns, chat_template=self.template.source, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise DataError(
                f"the chat template {self.template.name} rejects a question ({error}); give another --chat_template"
            ) from error
        return str(text)

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
        """Return the tokens of ``prompt_text``. Other templates than the plain one write special tokens themselves."""
        text = self.prompt_text(tokenizer, question)
        return list(tokenizer(text, add_special_tokens=self.template.is_plain)["input_ids"])

    def answer(self, continuation: str) -> str:
        """Return the answer in the text that the model wrote: what precedes the first of ``stops``."""
        ends = [end for stop in self.stops if (end := continuation.find(stop)) >= 0]
        return continuation[: min(ends, default=len(continuation))].strip()

    def as_dict(self) -> dict[str, Any]:
        """Return what run.json records."""
        return {
            "template": self.template.name,
            "end_of_turn": self.end_of_turn,
            "end_ids": list(self.end_ids),
            "stops": list(self.stops),
        }


def end_answers(model: PreTrainedModel, chat: ChatFormat) -> None:
    """Make generation stop where an answer ends, also after the model has been saved and loaded.

    PEFT saves no generation config with an adapter, so it gets one of these tokens, which slm-adapters and slm-kv read.
    """
    trained: Any = model
    config = trained.get_base_model().generation_config if isinstance(trained, PeftModel) else trained.generation_config
    own = config.eos_token_id
    end_ids = list(dict.fromkeys([*([own] if isinstance(own, int) else own or []), *chat.end_ids]))
    config.eos_token_id = end_ids
    if isinstance(trained, PeftModel):
        trained.save_pretrained = partial(_save_with_end_ids, trained.save_pretrained, end_ids)


def _save_with_end_ids(save: Any, end_ids: list[int], folder: str | Path, *args: Any, **options: Any) -> None:
    save(folder, *args, **options)
    if options.get("is_main_process", True):
        GenerationConfig(eos_token_id=end_ids).save_pretrained(folder)
