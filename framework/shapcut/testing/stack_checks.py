"""Checks of the fast path: a model split into prelude, layers and readout."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor

from shapcut.models.layer_stack import LayerStack, State
from shapcut.testing.case import Case, run_stack
from shapcut.testing.comparison import TOLERANCE, require

_NO_STACK = "no stack: bypassing serves"


def stack_equals_bypass(case: Case) -> str:
    """Skipping steps equals bypassing: for no absence, one, several, and another length."""
    model = case.fresh()
    stack = case.stack(model)
    if stack is None:
        return _NO_STACK
    comparison = case.comparison()
    n_players = len(case.players)
    for absent in (*[frozenset({index}) for index in case.probed], *case.absences):
        reference = case.reference(absent)
        effect = comparison.effect(reference, f"without {sorted(absent)}")
        logits = run_stack(stack, n_players, case.input_ids, absent)
        comparison.same(logits, reference, effect, f"stack without {sorted(absent)}")
    whole = run_stack(stack, n_players, case.input_ids, ())
    comparison.same(whole, case.full, effect, "stack of all layers")
    shorter = case.input_ids[:2, :-3]
    logits = run_stack(stack, n_players, shorter, ())
    comparison.same(logits, case.adapter.logits(model, shorter), effect, "stack of shorter sequences")
    return comparison.summary()


def stack_leaves_states(case: Case) -> str:
    """Steps, whole or without a player, and readout change neither their input state nor the model."""
    model = case.fresh()
    stack = case.stack(model)
    if stack is None:
        return _NO_STACK
    with torch.inference_mode():
        state = _some_state(stack, case.input_ids)
        stages = stack.stages(len(case.players))
        for index, players in enumerate(stages):
            before = _copy(state)
            following = stack.step(index, state)
            if len(players) > 1:
                stack.run(index, [player != players.start for player in players], state)
            require(_equal(before, state), f"step {index} changes the state that it is given")
            require(not _equal(before, following), f"vacuous: step {index} changes nothing")
            state = following
        before = _copy(state)
        stack.readout(state)
        require(_equal(before, state), "the readout changes the state that it is given")
    require(torch.equal(case.logits(model), case.full), "the model computes something else afterwards")
    return f"{len(stages)} steps"


def unembedding_equals_readout(case: Case) -> str:
    """A declared unembedding of the features gives the logits of the readout."""
    stack = case.stack(case.fresh())
    if stack is None:
        return _NO_STACK
    with torch.inference_mode():
        state = _some_state(stack, case.input_ids)
        linear = stack.unembedding()
        if linear is None:
            return "no unembedding declared: the readout serves"
        logits = stack.readout(state)
        mapped = F.linear(stack.features(state), linear.weight, linear.bias)
    require(mapped.shape == logits.shape, f"shape {tuple(mapped.shape)} instead of {tuple(logits.shape)}")
    share = float((mapped - logits).abs().max() / logits.abs().max())
    require(
        share <= TOLERANCE, f"the linear map differs from the readout by {share:.2g} of the largest logit"
    )
    return f"largest difference {share:.1g}"


def _some_state(stack: LayerStack, input_ids: Tensor) -> State:
    """The state that enters layer 0, cut to the stack's batch size."""
    state = stack.prelude(input_ids)
    return tuple(tensor[: stack.batch_size] for tensor in state)


def _copy(state: State) -> State:
    return tuple(tensor.clone() for tensor in state)


def _equal(first: State, second: State) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
