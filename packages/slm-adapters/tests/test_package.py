from importlib.metadata import version

import slm_adapters


def test_the_version_is_that_of_the_package() -> None:
    assert slm_adapters.__version__ == version("slm-adapters")
