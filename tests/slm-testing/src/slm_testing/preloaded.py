"""Imports what the commands under test need. ``fork_server`` loads it once, before it forks processes.

Public names only: they are imported on first use, so naming them here loads the modules behind them.
"""

import os
from typing import Any

from slm_kv import Engine
from slm_serve import create_app
from slm_train import BudgetTrainer, LiveTensors, parse_arguments

__all__ = ["BudgetTrainer", "Engine", "LiveTensors", "create_app", "parse_arguments"]

_os: Any = os
_os.fsync = os.fstat  # as in the test processes: a busy disk takes 20 ms, and a killed process loses nothing without it
