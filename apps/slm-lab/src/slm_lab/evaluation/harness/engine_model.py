"""A model in the engine as a model of lm-eval.

Tokens, windows and texts follow lm-eval's ``HFLM`` (models/huggingface.py, 0.4.13), so that scores are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from slm_lab.errors import LabError
from slm_lab.evaluation.engine_requests import score_pairs, write_texts
from slm_lab.evaluation.loading import OpenModel

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from slm_kv import SamplingParams

MAX_GEN_TOKS = 256  # as in lm-eval, for tasks that give no number
# Settings of generation that have the same meaning in the engine, besides those that lm-eval's functions read.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class EngineModel(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """Scores and writes texts with the engine, all requests of a task at once.

    Raises:
        LabError: The tokenizer has no token to begin a text with.
    """

    def __init__(self, model: OpenModel) -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_length = model, model.tokenizer, model.max_length
        first = self.tokenizer.bos_token_id
        self._prefix_id: int | None = self.tokenizer.eos_token_id if first is None else first
        if self._prefix_id is None:
            raise LabError(f"the tokenizer of {model.member.name} has neither a first token (bos) nor an end of text")

    @property
    def eot_token_id(self) -> int:
        """The end of text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int | None:
        """The token before a text without a context."""
        return self._prefix_id

    @property
    def tokenizer_name(self) -> str:
        """A name for lm-eval's caches of requests, which are not used."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode a text; one that begins with the first token as text gets no other one."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer(string, verbose=False, **options)["input_ids"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a chat with the model's template."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        scores = score_pairs(self.model, [self._fitting(context, rest) for _, context, rest in requests])
        return [
            (sum(score.logprob for score in continuation), all(score.greedy for score in continuation))
            for continuation in scores
        ]

    def _fitting(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Cut a context from the left, so that all but the last token of both fit into the window."""
        if not continuation:
            raise LabError(f"a continuation has no tokens; the task does not suit the tokenizer of {self._name}")
        if len(continuation) > self.max_length:
            raise LabError(
                f"a continuation has {len(continuation)} tokens and {self._name} a context of {self.max_length}; "
                "leave this task out"
            )
        return context[-(self.max_length + 1 - len(continuation)) :], continuation

    @property
    def _name(self) -> str:
        return self.model.member.name

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text, in windows that do not overlap."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for pair in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(index)
        totals = [0.0] * len(requests)
        for index, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[index] += logprob
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text after each context, up to the first of its stop strings."""
        prompts, stops = [], []
        for context, options in (request.args for request in requests):
            stop, params = self._sampling(options)
            prompts.append((self.tok_encode(context)[-(self.max_length - params.max_new_tokens) :], params))
            stops.append(stop)
        handles = write_texts(self.model, prompts)
        return [
            postprocess_generated_text(handle.text, stop, None) for handle, stop in zip(handles, stops, strict=True)
        ]

    def _sampling(self, options: Mapping[str, Any]) -> tuple[list[str], SamplingParams]:
        from slm_kv import SamplingParams

        known = dict(normalize_gen_kwargs(dict(options), MAX_GEN_TOKS))
        stop = [text for text in handle_stop_sequences(known.pop("until"), self._end_of_text()) if text]
        tokens, samples = int(known.pop("max_gen_toks")), bool(known.pop("do_sample"))
        if tokens >= self.max_length:
            raise LabError(
                f"the task lets the model write {tokens} tokens and {self._name} has a context of {self.max_length}; "
                "leave this task out"
            )
        settings = {name: known.pop(name) for name in SAMPLING if name in known}
        if known:
            raise LabError(f"the engine has no setting {next(iter(known))!r} for generation; leave this task out")
        settings |= {"temperature": settings.get("temperature", 1.0) if samples else 0.0}
        return stop, SamplingParams(max_new_tokens=tokens, stop=tuple(stop), seed=0, **settings)

    def _end_of_text(self) -> str | None:
        return None if self.tokenizer.eos_token_id is None else self.tokenizer.decode(self.eot_token_id)
