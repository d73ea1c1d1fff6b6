"""Hugging Face's Trainer with rows that know their order, exact evaluation and safe checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, Subset
from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import EvalLoopOutput

from slm_data import RowCollator, RowDataset, RowSampler, RowStream
from slm_train.arguments import SlmTrainingArguments
from slm_train.checkpoint import aside_path, rotate, writing
from slm_train.evaluation import evaluate
from slm_train.fused_loss import loss_context
from slm_train.optimizer import MuonWithAdamW, muon_groups


class SlmTrainer(Trainer):
    """A Trainer over rows of tokens. ``args`` decides as in any Trainer; the rest is fixed here."""

    args: SlmTrainingArguments

    def __init__(
        self,
        *,
        rows: RowDataset | RowStream,
        eval_rows: RowDataset,
        muon: bool = False,
        fused_loss: bool = True,
        **settings: Any,
    ):
        collator = RowCollator(_pad_id(settings["processing_class"]), rows.packing == "best_fit")
        self._run_dir: Path | None = None
        super().__init__(train_dataset=rows, eval_dataset=eval_rows, data_collator=collator, **settings)
        self.muon = muon
        held: Any = self.model
        self.loss_context = loss_context(held, self.args, fused_loss)
        self.trained_tokens: Any = 0
        self.last_evaluation: tuple[int, dict[str, Any]] | None = None  # during training: its step, its metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """Rows in an order that seed and epoch alone decide, so that a resumed run finds its place."""
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(rows, RowStream):
            return None
        if self.args.train_sampling_strategy == "sequential":
            return torch.utils.data.SequentialSampler(rows)
        group = self.args.train_batch_size * self.args.world_size
        grouped = self.args.train_sampling_strategy != "random"
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return RowSampler(rows.plan.row_lengths, seed=seed, group=group if grouped else 0)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """As in Trainer, counting the predicted tokens of the step on the way, without waiting for a GPU."""
        batches, predicted = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.trained_tokens += predicted if predicted is not None else 0
        return batches, predicted

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """Without a cache: with one, packed documents would see each other."""
        with self.loss_context():
            return super().compute_loss(model, inputs | {"use_cache": False}, *rest, **named)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.muon and self.optimizer is None:
            held: Any = self.model
            groups = muon_groups(model or held, held.get_input_embeddings())
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            self.optimizer = MuonWithAdamW(groups, self.args.learning_rate, self.args.weight_decay, betas)
        return super().create_optimizer(model)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Each process evaluates every world_size-th row, so that no row is counted twice."""
        rows: Any = eval_dataset if isinstance(eval_dataset, RowDataset) else self.eval_dataset
        share = range(self.args.process_index, len(rows), self.args.world_size)
        return DataLoader(Subset(rows, share), self.args.eval_batch_size, collate_fn=self.data_collator)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        *_: Any,
        metric_key_prefix: str = "eval",
        **__: Any,
    ) -> EvalLoopOutput:
        """Every token counts the same (Hugging Face's own loop averages the means of batches)."""
        model: Any = self.model_wrapped if self.is_in_train else self.model
        rows: Any = self.eval_dataset
        found = evaluate(
            model,
            dataloader,
            self.accelerator,
            tokens_per_byte=rows.store.tokens_per_byte,
            block_size=rows.plan.block_size,
        )
        metrics = found.metrics(metric_key_prefix)
        if self.is_in_train:
            self.last_evaluation = self.state.global_step, dict(metrics)
        no_predictions: Any = None
        return EvalLoopOutput(no_predictions, None, metrics, len(rows))

    def evaluate_trained(self) -> dict[str, Any]:
        """Metrics of the trained weights, as ``evaluate`` names them; not computed again where training ended with
        an evaluation, and kept the weights of that step."""
        if self.last_evaluation and not self.args.load_best_model_at_end:
            step, metrics = self.last_evaluation
            if step == self.state.global_step:
                return metrics
        return self.evaluate()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Hugging Face writes a checkpoint in place, and resumes from the half of one that a crash
        leaves. Here it is written aside and appears under its name only when complete."""
        run = Path(str(self.args.output_dir))
        target = run / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            with writing(target) as aside:
                self.accelerator.wait_for_everyone()
                self._write_checkpoint(aside, target, model, trial)
                self.accelerator.wait_for_everyone()
            best = self.state.best_model_checkpoint
            rotate(run, self.args.save_total_limit, Path(best) if best else None)
        else:
            self.accelerator.wait_for_everyone()
            self._write_checkpoint(aside_path(target), target, model, trial)
            self.accelerator.wait_for_everyone()

    def _write_checkpoint(self, aside: Path, target: Path, model: nn.Module, trial: Any) -> None:
        self._run_dir = aside
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._run_dir = None
        written = aside / target.name
        if self.args.should_save:
            if self.state.best_model_checkpoint == str(written):
                self.state.best_model_checkpoint = str(target)
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
            (written / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle, and nothing reads it
            for file in written.iterdir():
                file.rename(aside / file.name)
            written.rmdir()
        else:
            self.accelerator.wait_for_everyone()

    def load_weights(self, checkpoint: Path) -> None:
        """The weights of ``checkpoint``, and how far it came: what is evaluated next is logged there."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._load_from_checkpoint(str(checkpoint))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if output_dir and not _internal_call:
            (Path(output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _get_output_dir(self, trial: Any) -> str:
        """Where Hugging Face's code puts its ``checkpoint-N``: aside, while one is being written."""
        return str(self._run_dir or super()._get_output_dir(trial))


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any token will do: padding has no loss and nothing attends to it."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(found or 0)
