import pytest
import torch

from shapcut.testing import Case, cases_of
from shapcut_adapters.transformers.adapter import HFDecoderAdapter


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def adapter() -> HFDecoderAdapter:
    return HFDecoderAdapter()


@pytest.fixture(scope="module")
def family_case(request: pytest.FixtureRequest) -> Case:
    """The example of the family that the test is parametrized with; one at a time is kept."""
    adapter = HFDecoderAdapter()
    return cases_of(adapter, request.param, adapter.examples()[request.param])[0]
