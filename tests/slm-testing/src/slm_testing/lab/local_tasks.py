"""Small tasks for lm-eval in a folder, one of each kind of request, over the built-in stories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slm_data import SAMPLE_TRAIN_SEED, sample_stories

COMMON = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
metadata:
  version: {version}
"""
CHOICE = """\
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
LAST_WORD = """\
output_type: loglikelihood
doc_to_text: "{{text}}"
doc_to_target: " {{word}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
ROLLING = """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{story}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""
GENERATE = """\
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 12}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
KINDS = {"choice": CHOICE, "last_word": LAST_WORD, "rolling": ROLLING, "generate": GENERATE}


def story_examples(count: int) -> list[dict[str, Any]]:
    """Beginnings of stories with four possible continuations, the last word of one of them, and the whole story."""
    stories = [story.strip() for story in sample_stories(count + 3, SAMPLE_TRAIN_SEED + 1)]
    halves = [(story[: len(story) // 2].rsplit(" ", 1)[0], story[len(story) // 2 :]) for story in stories]
    endings = [" " + end.split(". ")[1] if ". " in end else " " + end for _, end in halves]
    return [
        {
            "text": halves[index][0],
            "choices": [endings[index], *endings[index + 1 : index + 4]],
            "label": 0,
            "word": halves[index][1].split()[-1],
            "story": stories[index],
        }
        for index in range(count)
    ]


def write_task(folder: Path, name: str, kind: str, examples: Sequence[dict[str, Any]], version: float = 1.0) -> None:
    """Write the YAML file and the data of a task."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8")
    text = COMMON.format(name=name, data=data, version=version) + KINDS[kind]
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
