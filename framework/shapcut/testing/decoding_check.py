"""The check of greedy decoding after removal."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from shapcut.testing.capabilities import needs_removal
from shapcut.testing.case import Case
from shapcut.testing.comparison import require

_NEW_TOKENS = 5
_TOKENS_TO_SEE_A_FAULT = 24


@needs_removal
def cached_decoding(case: Case) -> str:
    """Greedy decoding after removal agrees with and without a cache, and with bypassing.

    If the adapter declares the whole model's cache faulty, cached decoding is compared with the same model
    rebuilt from its checkpoint, so that a fault added by removal still shows.
    """
    fault = case.adapter.cache_differs(case.model)
    model = case.fresh()
    whole = _generated(case, model, use_cache=False)
    cached = _generated(case, model, use_cache=True)
    require(
        fault or torch.equal(cached, whole), "the whole model's cache changes the tokens, see cache_differs"
    )
    if fault:
        _require_fault(case, model, fault)
    visible = False
    for absent in case.removable_sets:
        removed = case.removed(absent)
        uncached = _generated(case, removed, use_cache=False)
        cached = _generated(case, removed, use_cache=True)
        expected = _generated(case, _rebuilt(case, removed), use_cache=True) if fault else uncached
        require(torch.equal(cached, expected), f"removed {sorted(absent)}: the cache changes the tokens")
        model = case.intact(model)
        with case.bypass(model, case.present(absent)):
            bypassed = _generated(case, model, use_cache=False)
        require(torch.equal(bypassed, uncached), f"removed {sorted(absent)}: bypassing chooses other tokens")
        visible |= not torch.equal(uncached, whole)
    require(visible, "vacuous: the whole model generates the same tokens")
    tokens = f"{len(case.removable_sets)} sets, {_NEW_TOKENS} tokens"
    return f"{tokens}; the whole model's own cache is at fault: {fault}" if fault else tokens


def _generated(case: Case, model: nn.Module, *, use_cache: bool, tokens: int = _NEW_TOKENS) -> Tensor:
    return case.adapter.generate(model, case.input_ids, tokens, use_cache=use_cache)


def _require_fault(case: Case, model: nn.Module, fault: str) -> None:
    cached, uncached = (
        _generated(case, model, use_cache=use, tokens=_TOKENS_TO_SEE_A_FAULT) for use in (True, False)
    )
    problem = f"cache_differs declares {fault!r}, but the whole model decodes the same"
    require(not torch.equal(cached, uncached), problem)


def _rebuilt(case: Case, model: nn.Module) -> nn.Module:
    """The same model, rebuilt from its checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        case.adapter.save(model, Path(name))
        return case.placed(case.adapter.load(Path(name)))
