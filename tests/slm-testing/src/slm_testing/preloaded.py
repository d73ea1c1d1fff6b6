"""Imports what the commands under test need. ``forked`` loads it once, before it forks processes.

Public names only: they are imported on first use, so naming them here loads the modules behind them.
"""

import gc

from slm_kv import Engine
from slm_serve import create_app
from slm_train import BudgetTrainer, LiveTensors, parse_arguments

__all__ = ["BudgetTrainer", "Engine", "LiveTensors", "create_app", "parse_arguments"]

# Otherwise each forked process would look at all of this in its garbage collections, and copy the memory it is in.
gc.collect()
gc.freeze()
