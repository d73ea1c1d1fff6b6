"""Two processes of slm-train, started by torchrun's own agent. A module for ``forked``.

The agent forks them from a process that has imported everything; the command ``torchrun`` starts them anew, which takes
half a minute. The READMEs' commands with ``torchrun`` are run by the slow tests of the workspace.
"""

from __future__ import annotations

import sys

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from slm_train import cli


def main() -> int:
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        start_method="fork",
    )  # fmt: skip
    codes: dict[int, int] = elastic_launch(config, cli.main)(sys.argv[1:])
    return max(codes.values())
