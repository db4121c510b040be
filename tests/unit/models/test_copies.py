"""Copies of a model in another dtype, and where its weights are."""

import copy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shapcut.models.loading import copied_as, weight_devices
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

CPU, META = torch.device("cpu"), torch.device("meta")


class LargestMade(TorchDispatchMode):
    """The most elements of a tensor of this dtype that any operation made."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        known = {tensor.data_ptr() for tensor in args if isinstance(tensor, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.dtype == self.dtype and made.data_ptr() not in known:
            self.elements = max(self.elements, made.numel())
        return made


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba2"])
def test_a_copy_in_another_dtype_is_a_converted_deep_copy(family: str) -> None:
    model, ids = HFDecoderAdapter().examples()[family](0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected, found = copy.deepcopy(model).to(torch.bfloat16), copied_as(model, torch.bfloat16)
    for one, other in (
        (expected.named_parameters, found.named_parameters),
        (expected.named_buffers, found.named_buffers),
    ):
        wanted, there = dict(one(remove_duplicate=False)), dict(other(remove_duplicate=False))
        assert wanted.keys() == there.keys()
        for name, tensor in wanted.items():
            assert there[name].dtype == tensor.dtype
            assert torch.equal(there[name], tensor)
            assert there[name].requires_grad == tensor.requires_grad
    assert len(list(found.parameters())) == len(list(model.parameters()))  # tied weights stay tied
    assert torch.equal(found(ids).logits, expected(ids).logits)
    after = model.state_dict()
    assert all(
        torch.equal(before[name], after[name]) and after[name].dtype == torch.float32 for name in before
    )


def test_no_weight_is_copied_in_its_own_dtype(tiny_llama_model: Any) -> None:
    smallest = min(weight.numel() for weight in tiny_llama_model.parameters() if weight.dim() > 1)
    with LargestMade(torch.float32) as deep:
        copy.deepcopy(tiny_llama_model)
    with LargestMade(torch.float32) as converting:
        copied_as(tiny_llama_model, torch.bfloat16)
    assert converting.elements < smallest <= deep.elements


def test_a_copy_in_the_same_dtype_shares_nothing(tiny_llama_model: Any) -> None:
    found = copied_as(tiny_llama_model, torch.float32)
    assert {id(weight) for weight in found.parameters()}.isdisjoint(map(id, tiny_llama_model.parameters()))
    assert torch.equal(found.lm_head.weight, tiny_llama_model.lm_head.weight)


def test_the_devices_of_weights(tiny_llama_model: Any) -> None:
    assert weight_devices(tiny_llama_model) == (CPU,)
    tiny_llama_model.model.layers[2].to(META)
    assert weight_devices(tiny_llama_model) == (CPU,)
