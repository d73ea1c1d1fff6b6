"""The order in which the Trainer takes the training rows."""

from __future__ import annotations

import torch
from torch.utils.data import Sampler

from slm_data import RowDataset, RowSampler
from slm_train.arguments import SlmTrainingArguments


def row_order(rows: RowDataset, training: SlmTrainingArguments) -> Sampler[int]:
    """Return an order that depends on seed and epoch only, so that a resumed run finds its position."""
    if training.train_sampling_strategy == "sequential":
        return torch.utils.data.SequentialSampler(rows)
    group = training.train_batch_size * training.world_size
    is_grouped = training.train_sampling_strategy != "random"
    seed = training.data_seed if training.data_seed is not None else training.seed
    return RowSampler(rows.plan.row_lengths, seed=seed, group=group if is_grouped else 0)
