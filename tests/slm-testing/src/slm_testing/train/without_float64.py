"""slm-train on an emulated device without float64. A module for ``forked``.

It needs the environment variable ``ACCELERATE_TORCH_DEVICE``, with the name of the device.
"""

from __future__ import annotations

import sys
from unittest.mock import patch

from slm_testing.emulated_device import NAME, emulated_device
from slm_train import cli
from slm_train.hardware.device_defaults import DeviceDefaults


def on_device(cpu_wanted: bool = False) -> DeviceDefaults:
    return DeviceDefaults(cpu_wanted, False, NAME)  # as for MPS


def main() -> int:
    with emulated_device(), patch("slm_train.command_line.parsing.device_defaults", on_device):
        return cli.main(sys.argv[1:])
