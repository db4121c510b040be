import pytest
import torch

from shapcut.testing import Case, cases
from shapcut_adapters.hf_decoder import HFDecoderAdapter


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def adapter() -> HFDecoderAdapter:
    return HFDecoderAdapter()


@pytest.fixture(scope="session")
def decoder_cases() -> dict[str, Case]:
    return {case.name: case for case in cases(HFDecoderAdapter(), seed=0)}
