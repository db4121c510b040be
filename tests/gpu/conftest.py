"""The devices of the tests in this folder; where they are missing, the tests are skipped."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def gpu() -> Iterator[torch.device]:
    """The first GPU, without TF32, which keeps 10 bits of a product's mantissa.

    By default cuDNN uses it for convolutions, cuBLAS does not.
    """
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch finds no CUDA device")
    libraries = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [library.allow_tf32 for library in libraries]
    for library in libraries:
        library.allow_tf32 = False
    yield torch.device("cuda", 0)
    for library, allowed in zip(libraries, before, strict=True):
        library.allow_tf32 = allowed


@pytest.fixture(scope="session")
def gpus(gpu: torch.device) -> tuple[torch.device, torch.device]:
    """The first two GPUs."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs: torch finds one CUDA device")
    return gpu, torch.device("cuda", 1)
