"""Real tokens a second, and tokens a step: the token-budget loop beside fixed micro-batches, padded or packed.

    uv run python scripts/bench_budget.py --varied
    uv run --with trl python scripts/bench_budget.py --varied --mode baseline
    uv run python scripts/bench_budget.py --varied --overhead

A model of distilgpt2's shape with random weights, the same texts, threads and precision for all:
  loop            slm-train dynamic, a document a row
  loop, packed    slm-train dynamic --packing best_fit
  trainer flow    slm-train --packing none, rows in random order: fixed micro-batches padded to their longest
  plain Trainer   Hugging Face's, likewise, on documents cut off at the block: the rest is not trained on
  TRL             SFTTrainer, packing bfd, no activation checkpointing; left out where trl is not installed
Those of slm-train have its one-kernel GELU and its fused loss, the others what they bring. Accumulation is such that
all steps hold about the budget. Every contender runs once in each round, in an order drawn anew, on the order of
documents that the round seeds; ratios are taken within a round. Counted are tokens with a loss, over all steps but
the first of a run; nobody writes a checkpoint. `tokens a step` are those of all full steps of the rounds' epochs,
planned or collated but not trained, and their coefficient of variation.

``--overhead`` measures instead what the loop costs. Each of its steps is followed by the same micro-batches, collated
before, in a bare loop on a model of its own: forward, backward, clip, optimizer. Then runs with a checkpoint after
every step beside runs without, and the share of its time that the loop itself waited for checkpoints.

``--small`` takes a tiny shape and little text, to see that all works. The built-in sample is of stories that are
nearly of one length; ``--varied`` cuts each text to a share of its words, drawn from 5 to 100 per cent.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging

from slm_adapters import LoraSettings, add_lora
from slm_data import IGNORE, Corpus, Documents, SourceOptions, load_corpus, plan_budget, sample_base, tokenize
from slm_train.arguments import Arguments
from slm_train.data import Rows, make_plan, make_rows
from slm_train.dynamic import BudgetTrainer
from slm_train.micro_batches import Batch, micro_batches, predicted
from slm_train.modes import Base, one_kernel_gelu
from slm_train.parsing import parse
from slm_train.step_checkpoint import StepCheckpoint
from slm_train.trainer import SlmTrainer

NEVER = 10**9  # steps
FLOW, PLAIN, TRL = "trainer flow", "plain Trainer", "TRL"
SMALL = {"samples": 200, "budget": 1024, "micro": 512, "batch": 4}
USUAL = {"samples": 400, "budget": 2048, "micro": 1024, "batch": 4}


class Clock(TrainerCallback):
    """When each step ended, and how long the loop had waited for ``checkpoint`` by then."""

    def __init__(self, checkpoint: StepCheckpoint | None = None) -> None:
        self.checkpoint = checkpoint
        self.ends: list[float] = []
        self.waits: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(now())
        self.waits.append(self.checkpoint.seconds if self.checkpoint else 0.0)

    @property
    def seconds(self) -> float:
        """Of all steps but the first."""
        return self.ends[-1] - self.ends[0]


class NoCheckpoint(StepCheckpoint):
    """The loop writes one at its end, whatever it is told."""

    def save(self, *_: Any) -> None:
        pass


@dataclass
class Setting:
    """What all contenders have in common."""

    options: argparse.Namespace
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    documents: list[list[int]] = field(default_factory=list)

    def model(self, seed: int, *, ours: bool) -> Any:
        torch.manual_seed(seed)
        shape: dict[str, Any] = {"n_layer": 2, "n_embd": 128, "n_head": 4} if self.options.small else {"n_layer": 6}
        made: Any = GPT2LMHeadModel(GPT2Config(vocab_size=self.options.vocabulary or len(self.tokenizer), **shape))
        made = one_kernel_gelu(made) if ours else made
        return add_lora(made, LoraSettings(dropout=0.05)) if self.options.mode == "lora" else made

    def accumulation(self, tokens_of_micro_batch: float) -> int:
        return max(1, round(self.options.budget / tokens_of_micro_batch))


@dataclass
class Outcome:
    """Of one run: its speed, and the tokens of each full step of an epoch."""

    speed: float
    step_tokens: list[int]


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def read(options: argparse.Namespace) -> Setting:
    location = str(sample_base()) if options.tokenizer == "sample" else options.tokenizer
    tokenizer = AutoTokenizer.from_pretrained(location)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    corpus = load_corpus(SourceOptions(options.dataset, max_train_samples=options.samples, max_eval_samples=8))
    if options.varied:
        corpus = replace(corpus, train=varied(corpus.train))
    store = tokenize(corpus.train, tokenizer)
    ends = store.lengths.cumsum().tolist()
    documents = [
        store.tokens[end - length : end].tolist() for end, length in zip(ends, store.lengths.tolist(), strict=True)
    ]
    return Setting(options, tokenizer, corpus, documents)


def varied(texts: Documents) -> Documents:
    """``texts``, each cut to a random share of its words."""

    def cut() -> Iterator[str]:
        draw = random.Random(0)
        for text in texts:
            words = text.split(" ")
            yield " ".join(words[: max(1, round(draw.uniform(0.05, 1) * len(words)))])

    return Documents(f"{texts.name}, cut", f"{texts.identity}, cut", cut)


def prepared(setting: Setting, flow: str, folder: str, seed: int) -> tuple[Arguments, Base, Rows]:
    """Of one of slm-train's flows, as its command line makes them."""
    options = setting.options
    words = f"{flow} --mode {options.mode} --output_dir {folder} --seed {seed} --max_steps {options.steps}"
    words += f" --dataset {options.dataset} --block_size {options.block_size} --bf16 {options.bf16}"
    arguments = parse(words.split())
    base = Base("", "", GPT2Config(), setting.tokenizer)
    return arguments, base, make_rows(arguments, setting.corpus, base, silent)


def silent(_: str) -> None:
    """Nothing is said of rows and plans."""


def parts(setting: Setting, arguments: Arguments, rows: Rows, seed: int) -> dict[str, Any]:
    """What both trainers of slm-train are made of."""
    return {
        "model": setting.model(seed, ours=True),
        "args": arguments.training,
        "rows": rows.train,
        "eval_rows": rows.validation,
        "processing_class": setting.tokenizer,
    }


def loop_trainer(setting: Setting, folder: str, seed: int, packing: str, interval: int) -> BudgetTrainer:
    options = setting.options
    flow = f"dynamic --packing {packing} --target_tokens_per_step {options.budget} --log_interval {NEVER}"
    flow += f" --max_tokens_per_micro_batch {options.micro} --checkpoint_interval {interval}"
    arguments, base, rows = prepared(setting, flow, folder, seed)
    plan = make_plan(arguments, base, rows, silent)
    assert plan
    assert arguments.budget
    checkpoint = (NoCheckpoint if interval == NEVER else StepCheckpoint)(Path(folder), {}, silent)
    return BudgetTrainer(
        plan=plan, budget=arguments.budget, checkpoint=checkpoint, state=None, say=silent,
        **parts(setting, arguments, rows, seed),
    )  # fmt: skip


def loop(setting: Setting, folder: str, seed: int, packing: str = "none") -> Outcome:
    trainer: Any = loop_trainer(setting, folder, seed, packing, NEVER)
    clock = Clock()
    train(trainer, clock)
    epoch = plan_budget(trainer.train_dataset.plan, trainer.plan.budget, seed=seed)
    return Outcome(int(trainer.plan.tokens[1:].sum()) / clock.seconds, epoch.full.tolist())


def packed_loop(setting: Setting, folder: str, seed: int) -> Outcome:
    return loop(setting, folder, seed, "best_fit")


def trainer_flow(setting: Setting, folder: str, seed: int) -> Outcome:
    batch = setting.options.batch
    block = setting.options.block_size
    lengths = [min(block, len(ids) - at) - 1 for ids in setting.documents for at in range(0, len(ids), block)]
    flow = "--packing none --train_sampling_strategy random --save_strategy no --logging_strategy no"
    flow += f" --per_device_train_batch_size {batch}"
    flow += f" --gradient_accumulation_steps {setting.accumulation(batch * statistics.mean(lengths))}"
    arguments, _, rows = prepared(setting, flow, folder, seed)
    return outcome(SlmTrainer(**parts(setting, arguments, rows, seed)))


def plain_trainer(setting: Setting, folder: str, seed: int) -> Outcome:
    cut: Any = [ids[: setting.options.block_size] for ids in setting.documents]
    batch = setting.options.batch
    tokens = batch * statistics.mean(len(ids) - 1 for ids in cut)
    settings = TrainingArguments(**common(setting, folder, seed, batch, tokens))
    return outcome(Trainer(setting.model(seed, ours=False), settings, padded, cut))


def padded(documents: list[list[int]]) -> Batch:
    """Padded to the longest."""
    longest = max(map(len, documents))
    ids = torch.tensor([document + [0] * (longest - len(document)) for document in documents])
    mask = torch.tensor([[1] * len(document) + [0] * (longest - len(document)) for document in documents])
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORE)}


def trl_trainer(setting: Setting, folder: str, seed: int) -> Outcome:
    trl, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
    datasets.disable_progress_bars()
    batch, block = setting.options.trl_batch, setting.options.block_size
    settings = trl.SFTConfig(
        packing=True, packing_strategy="bfd", max_length=block, shuffle_dataset=True, gradient_checkpointing=False,
        **common(setting, folder, seed, batch, batch * block),
    )  # fmt: skip
    texts = datasets.Dataset.from_dict({"input_ids": setting.documents})
    model = setting.model(seed, ours=False)
    return outcome(trl.SFTTrainer(model, settings, train_dataset=texts, processing_class=setting.tokenizer))


def common(setting: Setting, folder: str, seed: int, batch: int, tokens: float) -> dict[str, Any]:
    """TrainingArguments of those that are not ours. ``tokens``: of a micro-batch."""
    return {
        "output_dir": folder,
        "max_steps": setting.options.steps,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": setting.accumulation(tokens),
        "seed": seed,
        "bf16": setting.options.bf16,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }


def train(trainer: Trainer, *callbacks: TrainerCallback) -> None:
    for unwanted in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(unwanted)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()


def outcome(trainer: Any) -> Outcome:
    """Of a Trainer with Hugging Face's own loop, which takes the micro-batches of a step all at once."""
    taken: list[int] = []
    take = trainer.get_batch_samples

    def counted(*given: Any) -> Any:
        batches, items = take(*given)
        taken.append(sum(map(predicted, batches)))
        return batches, items

    trainer.get_batch_samples = counted
    clock = Clock()
    train(trainer, clock)
    return Outcome(sum(taken[1 : len(clock.ends)]) / clock.seconds, epoch_of(trainer))


def epoch_of(trainer: Any) -> list[int]:
    """Tokens of each full step of an epoch."""
    micro, each = trainer.args.gradient_accumulation_steps, list(map(predicted, trainer.get_train_dataloader()))
    full = len(trainer.train_dataset) // (micro * trainer.args.train_batch_size)
    return [sum(each[at : at + micro]) for at in range(0, full * micro, micro)]


CONTENDERS: dict[str, Callable[[Setting, str, int], Outcome]] = {
    "loop": loop,
    "loop, packed": packed_loop,
    FLOW: trainer_flow,
    PLAIN: plain_trainer,
    TRL: trl_trainer,
}


def compare(setting: Setting) -> dict[str, list[Outcome]]:
    names = [name for name in CONTENDERS if name != TRL or find_spec("trl")]
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    for seed in range(setting.options.rounds):
        for name in random.sample(names, len(names)):
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(CONTENDERS[name](setting, folder, seed))
    return found


def show(found: dict[str, list[Outcome]]) -> None:
    speeds = {name: [one.speed for one in outcomes] for name, outcomes in found.items()}
    peers = [name for name in (FLOW, PLAIN, TRL) if name in found]
    print(f"{'':15}{'real tokens/s':>24}{'tokens a step':>16}" + "".join(f"{'/ ' + peer:>23}" for peer in peers))
    for name, outcomes in found.items():
        steps = [tokens for one in outcomes for tokens in one.step_tokens]
        mean = statistics.mean(steps)
        line = f"{name:15}{spread(speeds[name], ',.0f'):>24}{mean:8,.0f} ±{statistics.pstdev(steps) / mean:5.1%}"
        print(line + "".join(f"{spread(ratios(speeds[name], speeds[peer]), '.2f'):>23}" for peer in peers))
    if TRL not in found:
        print("TRL is left out: trl is not installed (uv run --with trl python ...)")


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, others, strict=True)]


def spread(values: Sequence[float], style: str) -> str:
    return f"{statistics.median(values):{style}} ({min(values):{style}} to {max(values):{style}})"


class Bare(TrainerCallback):
    """After each step of the loop the same one bare, on the model of ``twin``: seconds of both."""

    def __init__(self, twin: BudgetTrainer):
        self.twin, plan = twin, twin.plan
        batches = micro_batches(twin, 0, 1)
        self.batches = [list(islice(batches, len(plan.micro_batches(step)))) for step in range(len(plan))]
        self.model: Any = twin.model
        self.optimizer = twin.create_optimizer()
        self.loop: list[float] = []
        self.bare: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.model.train()
        self.start = now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        middle = now()
        self.step(len(self.bare))
        end = now()
        self.loop.append(middle - self.start)
        self.bare.append(end - middle)
        self.start = end

    def step(self, step: int) -> None:
        for batch in self.batches[step]:
            self.loss(batch, int(self.twin.plan.tokens[step])).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.twin.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self, batch: Batch, tokens: int) -> Tensor:
        device = self.twin.args.device
        inputs = {name: value.to(device) for name, value in batch.items()}
        with self.twin.loss_context(), torch.autocast(device.type, torch.bfloat16, enabled=self.twin.args.bf16):
            loss: Tensor = self.model(**inputs, use_cache=False, num_items_in_batch=torch.tensor(tokens)).loss
        return loss


def overhead(setting: Setting) -> dict[str, list[float]]:
    """By what part the loop's steps are longer than bare ones, and steps with a checkpoint than those without."""
    found: dict[str, list[float]] = {"loop over bare": [], "checkpoints over none": [], "waited for checkpoints": []}
    for seed in range(setting.options.rounds):
        bare = beside_bare(setting, seed)
        found["loop over bare"] += [a / b - 1 for a, b in zip(bare.loop[1:], bare.bare[1:], strict=True)]
        clocks = {every: run_with(setting, seed, every) for every in random.sample((1, NEVER), 2)}
        kept, without = clocks[1], clocks[NEVER]
        found["checkpoints over none"].append(kept.seconds / without.seconds - 1)
        found["waited for checkpoints"].append((kept.waits[-1] - kept.waits[0]) / kept.seconds)
    return found


def beside_bare(setting: Setting, seed: int) -> Bare:
    with tempfile.TemporaryDirectory() as folder:
        bare = Bare(loop_trainer(setting, folder, seed, "none", NEVER))
        train(loop_trainer(setting, folder, seed, "none", NEVER), bare)
    return bare


def run_with(setting: Setting, seed: int, interval: int) -> Clock:
    """A run that writes a checkpoint every ``interval`` steps."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = loop_trainer(setting, folder, seed, "none", interval)
        clock = Clock(trainer.checkpoint)
        train(trainer, clock)
    return clock


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="sample")
    parser.add_argument("--tokenizer", default="sample", help="a name, a folder, or sample: that of the built-in base")
    parser.add_argument("--vocabulary", type=int, help="of the model; distilgpt2's is 50257. Default: the tokenizer's")
    parser.add_argument("--varied", action="store_true", help="cut texts to a random share of their words")
    parser.add_argument("--mode", choices=("lora", "baseline"), default="lora")
    parser.add_argument("--block_size", type=int, default=256)
    parser.add_argument("--samples", type=int, help="documents. Default: 400")
    parser.add_argument("--budget", type=int, help="predicted tokens of a step. Default: 2048")
    parser.add_argument("--micro", type=int, help="most places of the loop's micro-batches. Default: 1024")
    parser.add_argument("--batch", type=int, help="rows of a fixed micro-batch. Default: 4")
    parser.add_argument(
        "--trl_batch", type=int, default=1, help="packed rows of TRL's micro-batch, which it joins to one"
    )
    parser.add_argument("--steps", type=int, default=3, help="of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--small", action="store_true", help="a tiny model, to see that all works")
    parser.add_argument("--overhead", action="store_true", help="measure what the loop and its checkpoints cost")
    parser.add_argument("--json", help="write every sample to this file")
    options = parser.parse_args()
    for name, value in (SMALL if options.small else USUAL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    options = settings()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    set_seed(0)
    setting = read(options)
    mean = statistics.mean(map(len, setting.documents))
    print(f"{options.mode}, {options.threads} threads, {len(setting.documents)} documents of {mean:.0f} tokens (mean)")
    samples: dict[str, Any]
    if options.overhead:
        samples = found = overhead(setting)
        for name, parts in found.items():
            print(f"{name:24}{spread(parts, '+.2%')}, {len(parts)} samples")
    else:
        outcomes = compare(setting)
        show(outcomes)
        samples = {name: [asdict(one) for one in of_name] for name, of_name in outcomes.items()}
    if options.json:
        Path(options.json).write_text(json.dumps({"settings": vars(options), "samples": samples}, indent=1))


if __name__ == "__main__":
    main()
