"""The flags of ``slm-lab eval``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

EVAL = """\
Evaluate models: run folders of slm-train, adapter folders, model folders, or the names of bases. The base of each run
is evaluated too, and models with the same base are loaded together. Results are written to eval.json in each folder,
and are shown by slm-lab runs and on the page of slm-lab compare. What was computed before with the same weights and
settings is not computed again.

  --tasks       tasks of lm-eval (pip install "slm-lab[eval]"), as its own names or YAML files in --include_path
  --prompts     answers of all models to the prompts in a JSONL file, side by side, as a page
  --perplexity  sliding-window perplexity of a text, as in the literature"""
EVAL_EXAMPLES = """\
examples:
  slm-lab eval outputs/run --tasks hellaswag,piqa,arc_easy,lambada_openai --limit 200
  slm-lab eval outputs/lora outputs/butterfly --tasks my_task --include_path tasks/
  slm-lab eval outputs/compare/* --prompts questions.jsonl
  slm-lab eval outputs/run --perplexity wikitext2 --stride 512
  slm-lab eval sample --perplexity my.txt

perplexity: exp of the mean negative log-probability (natural logarithm) of the tokens of the text. Each token is
predicted once. A window has --max_length tokens, and moves on by --stride: the tokens that are new in it are predicted
from those before them in the window. The first token of the text is not predicted. That is the procedure of
https://huggingface.co/docs/transformers/perplexity, which reports 19.44 for GPT-2 large on WikiText-2 with no overlap
(--stride 1024) and 16.44 with --stride 512. Perplexity per word divides the same sum by the number of words that
white space separates, as lm-eval's word_perplexity does. wikitext2 is the raw test split of WikiText-2, its lines
joined with two line breaks, as there.

exit code: 0 all computed; 1 a task could not be loaded or computed, others are reported; 2 refused; 130 interrupted"""


def add_eval_flags(parser: argparse.ArgumentParser, integer_from: Callable[[int], Callable[[str], int]]) -> None:
    """Add the flags. ``integer_from`` makes a parser of integers of at least its argument."""
    add, one = parser.add_argument, integer_from(1)
    add("runs", metavar="RUN", nargs="+", help="a run folder, model folder or adapter folder, or the name of a base")
    add("--no_base", action="store_true", help="do not evaluate the bases of the runs")
    add("--overwrite", action="store_true", help="compute again what eval.json holds already")
    add("--output_dir", type=Path, default=Path("outputs/eval"), metavar="FOLDER", help="pages, and results of models "
        "without a folder. Default: %(default)s")  # fmt: skip
    _add_task_flags(parser, integer_from)
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument("--prompts", type=Path, metavar="FILE", help="lines with prompt or messages, and expected")
    prompts.add_argument("--max_new_tokens", type=one, default=64, metavar="N", help="Default: %(default)s")
    text = parser.add_argument_group("perplexity")
    text.add_argument("--perplexity", metavar="TEXT", help="wikitext2, or a text file")
    text.add_argument(
        "--stride", type=one, default=512, metavar="N", help="new tokens in a window. Default: %(default)s"
    )
    models = parser.add_argument_group("models")
    dtypes = ("auto", "float32", "bfloat16", "float16")
    models.add_argument("--dtype", default="auto", choices=dtypes, help="dtype of the weights. Default: %(default)s")
    models.add_argument("--device", metavar="NAME", help="cpu, cuda, mps or xpu. Default: a GPU if there is one")
    models.add_argument("--threads", type=one, metavar="N", help="threads of torch. Default: the fastest number")
    models.add_argument("--max_length", type=integer_from(2), metavar="N",
                        help="tokens of context. Default: the model's positions, at most 8192")  # fmt: skip


def _add_task_flags(parser: argparse.ArgumentParser, integer_from: Callable[[int], Callable[[str], int]]) -> None:
    add = parser.add_argument_group("tasks").add_argument
    add("--tasks", type=parse_tasks, metavar="A,B", help="names of tasks or groups of lm-eval")
    add("--limit", type=integer_from(1), metavar="N", help="examples of each task: for a trial, not for a report")
    add("--num_fewshot", type=integer_from(0), metavar="N", help="solved examples before each. Default: the task's own")
    add("--apply_chat_template", action="store_true", help="ask as a chat, with the model's template")
    add("--include_path", type=Path, metavar="FOLDER", help="a folder with YAML files of your own tasks")
    add(
        "--allow_code",
        action="store_true",
        help="let tasks in --include_path run the code that they name, and tasks marked as unsafe run answers as code",
    )
    add(
        "--compare_hf", action="store_true", help="also run lm-eval's own hf model, and report scores and times of both"
    )


def parse_tasks(text: str) -> tuple[str, ...]:
    """Parse comma-separated names. Repeated ones count once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("no task is named")
    return names
