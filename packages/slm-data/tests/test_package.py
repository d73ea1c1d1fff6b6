from importlib.metadata import version

import slm_data


def test_the_version_is_that_of_the_package() -> None:
    assert slm_data.__version__ == version("slm-data")
