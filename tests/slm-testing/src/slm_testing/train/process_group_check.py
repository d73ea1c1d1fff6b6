"""Runs slm-train and prints whether it left a process group behind. A module for ``forked``."""

from torch import distributed

from slm_train import cli


def main() -> int:
    code = cli.main()
    print("a process group is left" if distributed.is_initialized() else "no process group is left")
    return code
