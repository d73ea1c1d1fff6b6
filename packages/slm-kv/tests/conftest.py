"""Fixtures for all tests of slm-kv."""

from collections.abc import Iterator

import pytest
import torch

from slm_kv.sampling.step_times import StepTimes


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Use one thread: with tiny layers a second one only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def steps_are_not_timed() -> Iterator[None]:
    """The numbers of steps and drafts do not depend on the speed of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepTimes, "end_item", lambda self: None)
        yield


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """Restores torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
