"""Checks of removal: weights, indices and config agree, in memory and on disk."""

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.adapter import Adapter
from shapcut.errors import UnsupportedModelError
from shapcut.model_config import config_of
from shapcut.testing.case import Case
from shapcut.testing.comparison import identical, require
from shapcut.testing.snapshot import changed, structure

_NEW_TOKENS = 5
_NUMBER_FORMATS = (torch.bfloat16, torch.float64)


def remove_equals_bypass(case: Case) -> str:
    """A model without players computes what the whole one does with them bypassed."""
    comparison = case.comparison()
    for absent in case.removable_sets:
        reference = case.reference(absent)
        effect = comparison.effect(reference, f"without {sorted(absent)}")
        comparison.same(case.logits(case.removed(absent)), reference, effect, f"removed {sorted(absent)}")
    return comparison.summary()


def reload_equals_removed(case: Case) -> str:
    """A saved model computes the same when the adapter, or plain transformers, has loaded it."""
    comparison = case.comparison()
    for absent in case.telling_sets:
        removed = case.removed(absent)
        reference = case.logits(removed)
        effect = comparison.effect(reference, f"removed {sorted(absent)}")
        with tempfile.TemporaryDirectory() as name:
            case.adapter.save(removed, Path(name))
            for who, model in _readers(case, removed, Path(name)):
                what = f"{sorted(absent)} removed, reloaded by {who}"
                comparison.same(case.logits(model), reference, effect, what)
    return comparison.summary()


def _readers(case: Case, removed: nn.Module, directory: Path) -> list[tuple[str, nn.Module]]:
    from transformers import AutoModelForCausalLM, PreTrainedModel  # noqa: PLC0415 - slow to import

    readers = [("the adapter", case.adapter.load(directory))]
    if isinstance(removed, PreTrainedModel) and type(case.adapter).load is not Adapter.load:
        plain: Any = AutoModelForCausalLM
        readers.append(("transformers", plain.from_pretrained(directory, local_files_only=True).eval()))
    return readers


def cached_decoding(case: Case) -> str:
    """Greedy decoding of a model without players: with a cache, without one, and by bypassing."""
    model = case.fresh()
    whole = case.adapter.generate(model, case.input_ids, _NEW_TOKENS, use_cache=False)
    visible = False
    for absent in case.telling_sets:
        removed = case.removed(absent)
        uncached = case.adapter.generate(removed, case.input_ids, _NEW_TOKENS, use_cache=False)
        cached = case.adapter.generate(removed, case.input_ids, _NEW_TOKENS, use_cache=True)
        require(torch.equal(cached, uncached), f"removed {sorted(absent)}: the cache changes the tokens")
        model = case.intact(model)
        with case.adapter.bypass(model, case.present(absent)):
            logits = case.adapter.logits(model, cached[:, :-1])
        greedy = _greedy(model, logits[:, -_NEW_TOKENS:])
        agree = torch.equal(greedy, cached[:, -_NEW_TOKENS:])
        require(agree, f"removed {sorted(absent)}: bypassing chooses other tokens")
        visible |= not torch.equal(cached, whole)
    require(visible, "vacuous: the whole model generates the same tokens")
    return f"{len(case.telling_sets)} sets, {_NEW_TOKENS} tokens"


def _greedy(model: nn.Module, logits: Tensor) -> Tensor:
    """The most likely tokens, leaving out end tokens, which `Adapter.generate` never chooses."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    logits = logits.clone()
    if ends is not None:
        vocabulary = torch.arange(logits.shape[-1], device=logits.device)
        logits[..., torch.isin(vocabulary, torch.as_tensor(ends, device=logits.device))] = -torch.inf
    return logits.argmax(dim=-1)


def removal_composes(case: Case) -> str:
    """Removing some players and then others is removing all of them at once."""
    together = max(case.removable_sets, key=lambda absent: (len(absent), 0 in absent))
    require(len(together) > 1, "vacuous: no two players can be removed")
    first, *others = sorted(together)
    later = [player - 1 for player in others]  # those after the first have moved up by one
    once = case.adapter.remove(case.fresh(), together)
    twice = case.adapter.remove(case.adapter.remove(case.fresh(), {first}), later)
    comparison = case.comparison()
    reference = case.logits(once)
    effect = comparison.effect(reference, f"removed {sorted(together)}")
    comparison.same(case.logits(twice), reference, effect, f"removed {first}, then {others}")
    require(_weights_agree(once, twice), "the weights differ")
    require(config_of(once) == config_of(twice), "the configs differ")
    return f"{first}, then {others}"


def _weights_agree(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def parameter_count(case: Case) -> str:
    """As many parameters disappear as the players said."""
    before = _parameters(case.model)
    for absent in case.removable_sets:
        said = sum(case.players[index].parameters for index in absent)
        gone = before - _parameters(case.removed(absent))
        require(said > 0, f"vacuous: players {sorted(absent)} have no parameters")
        require(gone == said, f"removed {sorted(absent)}: {gone} parameters disappeared, players said {said}")
    return f"of {before} parameters"


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def reindexed_players(case: Case) -> str:
    """Those that stay are numbered from 0, in order, and can be bypassed under their new numbers."""
    comparison = case.comparison()
    for absent in case.telling_sets:
        kept = sorted(case.present(absent))
        removed = case.adapter.remove(case.fresh(), absent)
        players = case.adapter.players(removed)
        indices = [player.index for player in players]
        require(
            indices == list(range(len(kept))), f"removed {sorted(absent)}: players are numbered {indices}"
        )
        for player in (players[0], players[-1]):
            old = kept[player.index]
            require(
                player.parameters == case.players[old].parameters, f"{player.name} is not old player {old}"
            )
            require(removed.get_submodule(player.name) is not None, f"there is no module {player.name}")
            reference = case.reference({*absent, old})
            effect = comparison.effect(reference, f"without {sorted({*absent, old})}")
            with case.adapter.bypass(removed, set(indices) - {player.index}):
                logits = case.logits(removed)
            comparison.same(logits, reference, effect, f"removed {sorted(absent)}, bypassed {player.index}")
    return comparison.summary()


def bad_indices_raise_first(case: Case) -> str:
    """Requests that cannot be met raise before the model is touched."""
    n_players = len(case.players)
    model = case.fresh()
    before = structure(model)
    for wrong in ({-1}, {n_players}, {0, n_players + 3}):
        _require_raises(IndexError, lambda w=wrong: case.adapter.remove(model, w), f"remove {wrong}")
        _require_raises(IndexError, lambda w=wrong: case.bypassing(model, w), f"bypass {wrong}")
        _require_whole(case, model, before, f"indices {sorted(wrong)}")
    everyone = range(n_players)
    _require_raises(UnsupportedModelError, lambda: case.adapter.remove(model, everyone), "remove all players")
    _require_whole(case, model, before, "removing all players")
    return "in remove and bypass"


def _require_raises(kind: type[Exception], request: Any, what: str) -> None:
    try:
        request()
    except kind:
        return
    require(condition=False, problem=f"{what}: no {kind.__name__}")


def _require_whole(case: Case, model: nn.Module, before: dict[str, Any], what: str) -> None:
    difference = changed(before, structure(model))
    require(not difference, f"{what}: the model was touched: {difference}")
    require(identical(case.logits(model), case.full), f"{what}: the model computes something else")


def dtype_and_device_kept(case: Case) -> str:
    """Another number format survives bypassing, taking apart, removal and reloading."""
    model, full = _in_another_format(case)
    absent = case.removable_sets[0]
    expected = (full.dtype, full.device)
    found = {"bypass": case.bypassed(model, absent), **_stack_results(case, model)}
    formats = {parameter.dtype for parameter in model.parameters()}
    removed = case.adapter.remove(model, absent)
    found["remove"] = case.logits(removed)
    for what, tensor in found.items():
        kind = (tensor.dtype, tensor.device)
        require(kind == expected, f"{what} gives {kind} where the model gives {expected}")
    left = {parameter.dtype for parameter in removed.parameters()}
    require(left == formats, f"removal leaves parameters of {left}, there were {formats}")
    return _reloaded_format(case, removed, left)


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
    stack = case.adapter.stack(model)
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


def _reloaded_format(case: Case, removed: nn.Module, formats: Collection[torch.dtype]) -> str:
    with tempfile.TemporaryDirectory() as name:
        case.adapter.save(removed, Path(name))
        loaded = {parameter.dtype for parameter in case.adapter.load(Path(name)).parameters()}
    require(loaded == formats, f"reloading gives parameters of {loaded}, saved were {formats}")
    return ", ".join(sorted(str(dtype) for dtype in formats))
