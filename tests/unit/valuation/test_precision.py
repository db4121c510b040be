"""The memory budget of devices."""

import psutil
import pytest
import torch

from shapcut.valuation.precision import default_memory_budget

CPU = torch.device("cpu")
GIB = 2**30


class Gpus:
    """What CUDA says of two devices: free bytes, and bytes that torch has reserved and allocated."""

    free = (40 * GIB, 10 * GIB)
    reserved = (30 * GIB, 6 * GIB)
    allocated = (20 * GIB, 6 * GIB)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.device, torch.device]:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (Gpus.free[device.index], 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: Gpus.reserved[device.index])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: Gpus.allocated[device.index])
    return torch.device("cuda", 0), torch.device("cuda", 1)


def test_memory_that_torch_holds_for_reuse_is_free(gpus: tuple[torch.device, torch.device]) -> None:
    assert default_memory_budget(gpus[0]) == 25 * GIB
    assert default_memory_budget(gpus[1]) == 5 * GIB


def test_the_device_with_least_decides(gpus: tuple[torch.device, torch.device]) -> None:
    assert default_memory_budget(*gpus) == 5 * GIB


def test_main_memory_counts_only_where_weights_are_in_it(
    gpus: tuple[torch.device, torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 4 * GIB

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert default_memory_budget(CPU) == GIB
    assert default_memory_budget(CPU, gpus[0]) == GIB
    assert default_memory_budget(gpus[0]) > GIB
