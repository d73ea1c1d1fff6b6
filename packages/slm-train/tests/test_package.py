"""The version of slm-train."""

from importlib.metadata import version

import slm_train


def test_the_version_is_that_of_the_package() -> None:
    assert slm_train.__version__ == version("slm-train")
