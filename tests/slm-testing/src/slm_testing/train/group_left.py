"""slm-train, and then whether it left a process group behind: a module for ``forked``."""

from torch import distributed

from slm_train import cli


def main() -> int:
    code = cli.main()
    print("a group is left" if distributed.is_initialized() else "no group is left")
    return code
