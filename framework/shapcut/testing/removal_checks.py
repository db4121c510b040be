"""Checks of removal: weights, indices and config agree, in memory and on disk."""

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.models.adapter import Adapter
from shapcut.models.fingerprint import config_of
from shapcut.support.errors import UnsupportedModelError
from shapcut.testing.capabilities import needs_removal
from shapcut.testing.case import Case
from shapcut.testing.comparison import require

_NUMBER_FORMATS = (torch.bfloat16, torch.float64)


@needs_removal
def remove_equals_bypass(case: Case) -> str:
    """Removing players gives the logits of bypassing them."""
    comparison = case.comparison()
    for absent in case.removable_sets:
        reference = case.reference(absent)
        effect = comparison.effect(reference, f"without {sorted(absent)}")
        comparison.same(case.logits(case.removed(absent)), reference, effect, f"removed {sorted(absent)}")
    return comparison.summary()


@needs_removal
def reload_equals_removed(case: Case) -> str:
    """A saved model computes the same after loading by the adapter or by plain transformers."""
    comparison = case.comparison()
    for absent in case.removable_sets:
        removed = case.removed(absent)
        reference = case.logits(removed)
        effect = comparison.effect(reference, f"removed {sorted(absent)}")
        with tempfile.TemporaryDirectory() as name:
            case.adapter.save(removed, Path(name))
            for who, model in _readers(case, removed, Path(name)):
                what = f"{sorted(absent)} removed, reloaded by {who}"
                comparison.same(case.logits(case.placed(model)), reference, effect, what)
    return comparison.summary()


def _readers(case: Case, removed: nn.Module, directory: Path) -> list[tuple[str, nn.Module]]:
    from transformers import AutoModelForCausalLM, PreTrainedModel  # noqa: PLC0415 - slow to import

    readers = [("the adapter", case.adapter.load(directory))]
    if isinstance(removed, PreTrainedModel) and type(case.adapter).load is not Adapter.load:
        plain: Any = AutoModelForCausalLM
        readers.append(("transformers", plain.from_pretrained(directory, local_files_only=True).eval()))
    return readers


@needs_removal
def removal_composes(case: Case) -> str:
    """Removing some players and then others equals removing all of them at once."""
    several = sorted(case.same_sets, key=lambda absent: (-len(absent), 0 not in absent))
    if not several and case.removable_sets:
        return "no removable set leaves a model of the same family"
    require(len(several[0]) > 1, "vacuous: no two players can be removed")
    for together in several:
        first = case.first_of(together)
        others = sorted(together - first)
        later = [player - sum(gone < player for gone in first) for player in others]  # they have moved up
        twice = _removed_in_turn(case, first, later)
        if twice is not None:
            break
    else:
        return "no set can be removed one after the other"
    once = case.remove(case.fresh(), together)
    comparison = case.comparison()
    reference = case.logits(once)
    effect = comparison.effect(reference, f"removed {sorted(together)}")
    comparison.same(case.logits(twice), reference, effect, f"removed {sorted(first)}, then {others}")
    require(_weights_agree(once, twice), "the weights differ")
    require(config_of(once) == config_of(twice), "the configs differ")
    return f"{sorted(first)}, then {others}"


def _removed_in_turn(case: Case, first: Collection[int], later: Collection[int]) -> nn.Module | None:
    """Remove ``first``, then ``later``; None if either removal is refused."""
    if not (first and later) or case.refusal(case.model, first) is not None:
        return None
    model = case.remove(case.fresh(), first)
    return None if case.refusal(model, later) is not None else case.remove(model, later)


def _weights_agree(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@needs_removal
def parameter_count(case: Case) -> str:
    """Removal drops exactly the players' parameter counts, but for what the form keeps in their place."""
    before = _parameters(case.model)
    for absent in case.removable_sets:
        said = sum(case.players[index].parameters for index in absent) - case.remnants(absent)
        freed = before - _parameters(case.removed(absent))
        require(said > 0, f"vacuous: players {sorted(absent)} have no parameters")
        require(freed == said, f"removing {sorted(absent)} freed {freed} parameters, players declare {said}")
    return f"of {before} parameters"


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@needs_removal
def reindexed_players(case: Case) -> str:
    """The remaining players are numbered from 0, in order, and can be bypassed by their new numbers."""
    comparison = case.comparison()
    # A largest set of players in groups may leave too few for one more to be absent.
    for absent in sorted(case.same_sets, key=len)[:1] if case.groups else _telling(case):
        kept = sorted(case.present(absent))
        removed = case.remove(case.fresh(), absent)
        players = case.players_of(removed)
        indices = [player.index for player in players]
        require(
            indices == list(range(len(kept))), f"removed {sorted(absent)}: players are numbered {indices}"
        )
        probed = [player for player in players if kept[player.index] in case.probed]
        for player in (probed[0], probed[-1]):
            old = kept[player.index]
            require(
                player.parameters == case.players[old].parameters, f"{player.name} is not old player {old}"
            )
            if player.kind != "expert":  # experts are slices
                require(removed.get_submodule(player.name) is not None, f"there is no module {player.name}")
            reference = case.reference({*absent, old})
            effect = comparison.effect(reference, f"without {sorted({*absent, old})}")
            with case.bypass(removed, set(indices) - {player.index}):
                logits = case.logits(removed)
            comparison.same(logits, reference, effect, f"removed {sorted(absent)}, bypassed {player.index}")
    return comparison.summary()


def _telling(case: Case) -> tuple[frozenset[int], ...]:
    """Those of the telling sets without which the model is one of its family, or the smallest such set."""
    same = case.same_sets
    return tuple(each for each in case.telling_sets if each in same) or tuple(sorted(same, key=len)[:1])


def dtype_and_device_kept(case: Case) -> str:
    """Another dtype survives bypassing, the stack, removal and reloading."""
    model, full = _in_another_format(case)
    absent = frozenset({0}) if case.no_removal else case.removable_sets[0]
    expected = (full.dtype, full.device)
    found = {"bypass": case.bypassed(model, absent), **_stack_results(case, model)}
    formats = {parameter.dtype for parameter in model.parameters()}
    whole = set(_reloaded_formats(case, model).values())
    removed = model if case.no_removal else case.remove(model, absent)
    found["remove"] = case.logits(removed)
    for what, tensor in found.items():
        kind = (tensor.dtype, tensor.device)
        require(kind == expected, f"{what} gives {kind} where the model gives {expected}")
    left = {parameter.dtype for parameter in removed.parameters()}
    require(left == formats, f"removal leaves parameters of {left}, there were {formats}")
    reloaded = set(_reloaded_formats(case, removed).values())
    require(reloaded == whole, f"reloading gives parameters of {reloaded}, of the whole model {whole}")
    return ", ".join(sorted(str(dtype) for dtype in formats))


def _in_another_format(case: Case) -> tuple[nn.Module, Tensor]:
    problems: list[str] = []
    for dtype in _NUMBER_FORMATS:
        model = case.fresh().to(dtype)
        try:
            return model, case.logits(model)
        except RuntimeError as error:  # an operation that this format lacks
            problems.append(str(error))
    raise UnsupportedModelError(f"the example runs in none of {_NUMBER_FORMATS}: {problems}")


def _stack_results(case: Case, model: nn.Module) -> dict[str, Tensor]:
    stack = case.stack(model)
    if stack is None:
        return {}
    with torch.inference_mode():
        state = stack.prelude(case.input_ids)
        state = tuple(tensor[: stack.batch_size] for tensor in state)
        following = stack.step(0, state)
        for index, (before, after) in enumerate(zip(state, following, strict=True)):
            problem = f"step 0 turns state {index} from {before.dtype} into {after.dtype}"
            require(after.dtype == before.dtype, problem)
        return {"stack": stack.readout(following)}


def _reloaded_formats(case: Case, model: nn.Module) -> dict[str, torch.dtype]:
    """The dtypes of a model's parameters after saving and reloading."""
    with tempfile.TemporaryDirectory() as name:
        case.adapter.save(model, Path(name))
        return {name: parameter.dtype for name, parameter in case.adapter.load(Path(name)).named_parameters()}
