"""Stacks of models whose weights are not on one CPU; the meta device stands for a second one."""

from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn

from shapcut_adapters.rwkv.adapter import RwkvPackageAdapter
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_adapters.transformers.decoder import find_decoder, input_device
from shapcut_adapters.transformers.interception import learn_containers
from shapcut_adapters.transformers.offload import execution_device
from shapcut_adapters.transformers.recorded_stack import RecordedStack

CPU, META = torch.device("cpu"), torch.device("meta")
IDS = torch.arange(3, 27).view(2, 12)
FIRST_ON_META = 3


@pytest.fixture
def spread(tiny_llama_model: Any) -> RecordedStack:
    """A stack after its prelude; the blocks from the fourth on, the norm and the head are elsewhere."""
    model, decoder = tiny_llama_model, find_decoder(tiny_llama_model)
    containers = learn_containers(decoder)
    for part in (*decoder.blocks[FIRST_ON_META:], model.model.norm, model.lm_head):
        part.to(META)
        add_hook_to_module(part, AlignDevicesHook(execution_device=META))
    stack = RecordedStack(decoder, containers)
    with torch.inference_mode():
        stack.prelude(IDS)
    return stack


def test_a_step_runs_where_its_block_is(spread: RecordedStack) -> None:
    with torch.inference_mode():
        state = spread.prelude(IDS)
        for index in range(spread.n_layers):
            state = spread.step(index, state)
            assert state[0].device == (CPU if index < FIRST_ON_META else META)


def test_states_from_different_devices_meet_before_a_block(spread: RecordedStack) -> None:
    with torch.inference_mode():
        early = spread.step(1, spread.prelude(IDS))
        late = spread.step(FIRST_ON_META, early)
        placed = [spread.placed(FIRST_ON_META + 1, state) for state in (early, late)]
        assert {state[0].device for state in placed} == {META}
        together = spread.step(FIRST_ON_META + 1, (torch.cat([state[0] for state in placed]),))
        assert together[0].shape[0] == 2 * len(IDS)
        assert spread.placed(0, early)[0] is early[0]


def test_what_calls_are_recorded_with_is_where_the_block_is(spread: RecordedStack) -> None:
    for index, call in enumerate(spread._calls):
        cosine, sine = call.kwargs["position_embeddings"]
        assert {cosine.device, sine.device} == {CPU if index < FIRST_ON_META else META}


def test_features_are_where_the_head_is(spread: RecordedStack) -> None:
    with torch.inference_mode():
        assert spread.features(spread.prelude(IDS)).device == META


def test_a_model_on_one_device_moves_nothing(tiny_llama_model: Any) -> None:
    stack = HFDecoderAdapter().stack(tiny_llama_model)
    assert stack is not None
    with torch.inference_mode():
        state = stack.prelude(IDS)
        assert stack.placed(4, state) is state


def test_a_head_that_accelerate_manages_but_does_not_offload_is_declared(tiny_llama_model: Any) -> None:
    add_hook_to_module(tiny_llama_model.lm_head, AlignDevicesHook(execution_device=CPU))
    stack = HFDecoderAdapter().stack(tiny_llama_model)
    assert stack is not None
    with torch.inference_mode():
        stack.prelude(IDS)
        linear = stack.unembedding()
        assert linear is not None
        assert linear.weight is tiny_llama_model.lm_head.weight


def test_the_device_that_a_module_executes_on() -> None:
    module = nn.Linear(2, 2)
    assert execution_device(module) == CPU
    add_hook_to_module(module, AlignDevicesHook(execution_device=META))
    assert execution_device(nn.Sequential(nn.ReLU(), module)) == META
    assert execution_device(nn.ReLU()) is None
    assert input_device(nn.ReLU()) == CPU


@pytest.mark.parametrize("version", ["4", "5.2", "6", "7"])
def test_every_tensor_of_an_rwkv_state_is_on_the_models_device(version: str) -> None:
    adapter = RwkvPackageAdapter()
    model, ids = adapter.examples()[f"rwkv-{version}"](0)
    state = adapter.stack(model.to(META)).prelude(ids.to(META))
    assert {tensor.device for tensor in state} == {META}
