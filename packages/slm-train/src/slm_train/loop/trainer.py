"""Hugging Face's Trainer with packed rows, exact evaluation and atomic checkpoints."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedTokenizerBase
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from slm_data import RowCollator, RowDataset, RowStream
from slm_train.arguments import SlmTrainingArguments
from slm_train.checkpoints.best_weights import STATE_NAME, BestWeights, read_best_state
from slm_train.checkpoints.files.atomic_write import atomic_folder, temporary_path
from slm_train.checkpoints.hub_upload import upload_checkpoint
from slm_train.checkpoints.retention import list_checkpoints, rotate
from slm_train.checkpoints.run_identity import IDENTITY_NAME
from slm_train.checkpoints.step_checkpoint_file import load_weights
from slm_train.checkpoints.whole_weights import whole_trained_weights
from slm_train.data.evaluation_share import EvaluationShare
from slm_train.hardware.heap import kept_heap
from slm_train.loop.changed_settings import NewSettings
from slm_train.loop.evaluation import evaluate
from slm_train.loop.finite_check import check_evaluation
from slm_train.loop.finite_trainer import FiniteTrainer
from slm_train.loop.muon import MuonWithAdamW, muon_groups
from slm_train.loop.row_order import row_order
from slm_train.losses.auxiliary_loss import AuxiliaryLoss
from slm_train.losses.evaluation_loss import EvaluationLoss
from slm_train.losses.fused_loss import loss_context
from slm_train.losses.loss_path import observe_loss_path
from slm_train.model.fast_dropout import use_fast_dropout
from slm_train.model.mask_checks import without_mask_checks


class SlmTrainer(FiniteTrainer):
    """A Trainer that trains and evaluates on rows of tokens. ``args`` has the same effects as in any Trainer."""

    args: SlmTrainingArguments

    def __init__(
        self,
        *,
        rows: RowDataset | RowStream,
        eval_rows: RowDataset,
        muon: bool = False,
        fused_loss: bool = True,
        best: BestWeights | None = None,
        identity: dict[str, Any] | None = None,
        changed: Collection[str] = (),
        **settings: Any,
    ):
        collator = RowCollator(padding_id(settings["processing_class"]), rows.packing == "best_fit")
        self._checkpoint_parent: Path | None = None
        super().__init__(train_dataset=rows, eval_dataset=eval_rows, data_collator=collator, **settings)
        self.identity, self.changed = identity or {}, changed
        self.muon, self.best = muon, best or BestWeights(Path(str(self.args.output_dir)))
        model: Any = self.model
        use_fast_dropout(model)
        self._check_loss_path(model)
        self.loss_context = loss_context(model, self.args, fused_loss)
        self.mask_context = without_mask_checks(self.args, collator.packed) or nullcontext
        self.evaluation_loss = EvaluationLoss.fitting(model, self.args)
        self.shard()
        self.trained_tokens: Any = 0
        self.last_evaluation: tuple[int, dict[str, Any]] | None = (
            None  # step and metrics of the last one during training
        )

    def _check_loss_path(self, model: Any) -> None:
        """Adapt to a model that adds an auxiliary loss, or whose loss ignores the number of tokens of a step."""
        if is_deepspeed_zero3_enabled():
            return  # the weights are sharded, and only the engine that is created later can run the model
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        path = observe_loss_path(causal, gives_token_count=self.model_accepts_loss_kwargs)
        # A forward may accept the number and not use it. Its gradients would be too large by the number of batches.
        self.model_accepts_loss_kwargs = self.model_accepts_loss_kwargs and path.passes_token_count
        if path.adds_to_loss:
            AuxiliaryLoss(model, causal)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(rows, RowStream):
            return None
        return row_order(rows, self.args)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Also add up predicted tokens, on the device: reading the count would make the CPU wait for the GPU."""
        batches, predicted = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.trained_tokens += predicted if predicted is not None else 0
        return batches, predicted

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """Compute the loss without a cache: with one, packed documents would attend to each other."""
        with self.loss_context(), self.mask_context():
            return super().compute_loss(model, inputs | {"use_cache": False}, *rest, **named)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.muon and self.optimizer is None:
            base_model: Any = self.model
            groups = muon_groups(model or base_model, base_model.get_input_embeddings())
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            self.optimizer = MuonWithAdamW(groups, self.args.learning_rate, self.args.weight_decay, betas)
        return super().create_optimizer(model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the state of optimizer and schedule; the settings that were changed on purpose keep their new values."""
        new = NewSettings(self.optimizer, self.lr_scheduler, self.changed)
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and not (Path(checkpoint) / SCHEDULER_NAME).exists():
            new.continue_at(self.state.global_step)
        new.apply()

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self.accelerator.scaler is not None:  # the run that is continued may have had one: --fp16
            super()._load_scaler(checkpoint)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Give each process its share. accelerate's own sharding counts rows twice, for shares of equal length."""
        rows: Any = eval_dataset if isinstance(eval_dataset, RowDataset) else self.eval_dataset
        # Not prepared by accelerate on purpose: it would shard these rows again.
        share = EvaluationShare(rows, self.args.process_index, self.args.world_size, equal=self.is_sharded)
        return DataLoader(share, self.args.eval_batch_size, collate_fn=self.data_collator)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        *_: Any,
        metric_key_prefix: str = "eval",
        **__: Any,
    ) -> EvalLoopOutput:
        """Evaluate by tokens. transformers' own loop averages the means of batches."""
        rows: Any = self.eval_dataset
        self.callback_handler.eval_dataloader = dataloader
        evaluation = evaluate(
            self._evaluated_model(),
            dataloader,
            self.accelerator,
            tokens_per_byte=rows.store.tokens_per_byte,
            block_size=rows.plan.block_size,
            loss=self.evaluation_loss,
            on_batch=self._report_batch,
        )
        metrics = evaluation.metrics(metric_key_prefix)
        if self.is_in_train:
            self.last_evaluation = self.state.global_step, dict(metrics)
        no_predictions: Any = None
        return EvalLoopOutput(no_predictions, None, metrics, len(rows))

    def _evaluated_model(self) -> Any:
        """Return the model to evaluate: not DDP, whose processes wait for each other in every forward pass.

        It broadcasts buffers there, also in evaluation, and the shares of the processes may differ by a batch.
        """
        is_wrapped = self.is_in_train and not isinstance(self.model_wrapped, DistributedDataParallel)
        return self.model_wrapped if is_wrapped else self.model

    def _report_batch(self) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def train(self, *arguments: Any, **named: Any) -> TrainOutput:
        """Train as any Trainer does, and end with the best weights if the run keeps them."""
        with kept_heap(self.args.device):
            output: TrainOutput = super().train(*arguments, **named)
        self.check_finite(is_saved=True)
        self._end_with_best()
        return output

    def _evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Evaluate during training. transformers 5.19 calls this before it saves a checkpoint of the same step."""
        metrics: dict[str, float] = super()._evaluate(*arguments, **named)
        check_evaluation(metrics, self.state.global_step)
        self._track_best()
        if self.best.is_exhausted:
            self.control.should_training_stop = True
            # As at the end of a complete run: a run that is resumed from here is finished.
            self.control.should_save |= self.args.save_strategy in ("steps", "epoch")
        return metrics

    def _track_best(self) -> None:
        """Record the evaluation that was just made."""
        assert self.last_evaluation
        is_best = self.best.update(*self.last_evaluation, self._trained_weights)
        if is_best and self.args.should_save:
            self.best.remove_except(self._best_steps_in_checkpoints())

    def _best_steps_in_checkpoints(self) -> set[int]:
        """Return the steps whose weights the existing checkpoints resume with."""
        states = [read_best_state(checkpoint) for checkpoint in list_checkpoints(Path(str(self.args.output_dir)))]
        return {int(state["step"]) for state in states if state}

    def _trained_weights(self) -> dict[str, Tensor]:
        return whole_trained_weights(self.accelerator, self._unwrapped)

    def _end_with_best(self) -> None:
        """Load the weights of the best evaluation, if the run keeps them; its figures are then those of the run."""
        self.accelerator.wait_for_everyone()  # the first process has written them
        if self.args.should_save and self.best.keep:
            self.best.remove_except(self._best_steps_in_checkpoints())
        if weights := self.best.read_weights():
            load_weights(self._unwrapped, weights)
            self.last_evaluation = self.state.global_step, self.best.metrics

    @property
    def _unwrapped(self) -> Any:
        """The model without DDP and torch.compile, which put prefixes before the names of its parameters."""
        return self.model

    def evaluate_trained(self) -> dict[str, Any]:
        """Return the metrics of the trained weights, under the names that ``evaluate`` uses.

        If they were evaluated during training, at its end or as the best ones that are kept, those are returned.
        """
        if self.last_evaluation and not self.args.load_best_model_at_end:
            step, metrics = self.last_evaluation
            if step == self.state.global_step:
                return metrics
        return self.evaluate()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint to a temporary folder, which is renamed once it is complete.

        transformers 5.19 writes ``checkpoint-N`` in place, and would resume from one that a crash left incomplete.
        """
        run = Path(str(self.args.output_dir))
        target = run / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            with atomic_folder(target) as temporary:
                self.accelerator.wait_for_everyone()
                self._write_checkpoint(temporary, target, model, trial)
                self.accelerator.wait_for_everyone()
            best = self.state.best_model_checkpoint
            upload_checkpoint(self.args, target)
            rotate(run, self.args.save_total_limit, Path(best) if best else None)
        else:
            self.accelerator.wait_for_everyone()
            self._write_checkpoint(temporary_path(target), target, model, trial)
            self.accelerator.wait_for_everyone()

    def _write_checkpoint(self, temporary: Path, target: Path, model: nn.Module, trial: Any) -> None:
        """Let transformers write ``temporary/checkpoint-N``, and move its files up to ``temporary``."""
        self._checkpoint_parent = temporary
        callback_states: Any = self.state.stateful_callbacks
        callback_states[STATE_NAME] = {"args": {}, "attributes": self.best.state()}
        callback_states[IDENTITY_NAME] = {"args": {}, "attributes": self.identity}
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._checkpoint_parent = None
        written = temporary / target.name
        if self.args.should_save:
            if self.state.best_model_checkpoint == str(written):
                self.state.best_model_checkpoint = str(target)
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
            (written / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nothing reads
            for file in written.iterdir():
                file.rename(temporary / file.name)
            written.rmdir()
        else:
            self.accelerator.wait_for_everyone()

    def load_weights(self, checkpoint: Path) -> None:
        """Load the weights and the progress of ``checkpoint``, without training."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._load_from_checkpoint(str(checkpoint))
        self._end_with_best()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save without uploading: the flow uploads the run when its files are complete (``hub_upload``)."""
        super().save_model(output_dir, _internal_call=True)
        if output_dir and not _internal_call:
            (Path(output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def init_hf_repo(self, token: str | None = None) -> None:
        """Do nothing: the repository was created before the model was loaded."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload nothing here: the checkpoint is not in its place yet, and transformers adds a pickle of ``args``."""

    def _get_output_dir(self, trial: Any) -> str:
        """Return the folder in which transformers creates ``checkpoint-N``: the temporary one while it writes one."""
        return str(self._checkpoint_parent or super()._get_output_dir(trial))


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return a token id for padding. Any id works: padding has no loss, and no token attends to it."""
    token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(token or 0)
