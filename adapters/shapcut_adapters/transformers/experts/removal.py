"""Remove experts for good: weights, router, counters and config."""

from collections.abc import Collection, Sequence

from torch import nn
from transformers import PretrainedConfig

from shapcut_adapters.transformers.decoder import Decoder
from shapcut_adapters.transformers.experts.layout import COUNT_FIELDS, Mixture, count_holders
from shapcut_adapters.transformers.file_cut import forbid_file_cut


def removal_objection(model: nn.Module, kept: Sequence[tuple[Mixture, Collection[int]]]) -> str:
    """Why layers of a model with only these experts cannot be written; empty if they can.

    A model entirely on the meta device counts as not loaded, not as offloaded.
    """
    counts = {mixture.layer: len(experts) for mixture, experts in kept}
    if len(set(counts.values())) > 1:
        fewest, most = (choose(counts, key=lambda layer: counts[layer]) for choose in (min, max))
        return (
            f"layer {fewest} would have {counts[fewest]} experts and layer {most} {counts[most]}, "
            "but the config has one count for all layers"
        )
    absent = any(table.of(mixture.module).is_meta for mixture, _ in kept for table in mixture.tables)
    if absent and not all(weight.is_meta for weight in model.parameters()):
        return "its experts are offloaded; load the whole model into memory to remove experts"
    return next((why for mixture, experts in kept if (why := mixture.objection(experts))), "")


def remove_experts(decoder: Decoder, kept: Sequence[tuple[Mixture, Collection[int]]]) -> None:
    """Keep only some experts of each layer, in place."""
    held = [decoder.config, *(vars(module).get("config") for module in decoder.model.modules())]
    configs = {id(config): config for config in held if type(config) is type(decoder.config)}
    for mixture, experts in kept:
        _count(mixture, decoder.model, len(experts))
        for table in mixture.tables:
            owner, name = table.owner(mixture.module)
            tensor = table.of(mixture.module)
            shorter = table.kept(tensor.detach(), experts, mixture.count)
            if isinstance(tensor, nn.Parameter):
                shorter = nn.Parameter(shorter, requires_grad=tensor.requires_grad)
            setattr(owner, name, shorter)
    for config in configs.values():
        _edit(config, kept)
    forbid_file_cut(decoder, "have lost experts")


def _count(mixture: Mixture, model: nn.Module, left: int) -> None:
    modules = [mixture.module, *mixture.router.modules(), *mixture.experts.modules()]
    for module, name in list(mixture.counters(modules)):
        setattr(module, name, vars(module)[name] - mixture.count + left)
    for name in COUNT_FIELDS:  # what the auxiliary loss counts by
        if vars(model).get(name) == mixture.count:
            setattr(model, name, left)


def _edit(config: PretrainedConfig, kept: Sequence[tuple[Mixture, Collection[int]]]) -> None:
    mixture, experts = kept[0]
    for holder in count_holders(config):
        for name in COUNT_FIELDS:
            if vars(holder).get(name) == mixture.count:
                setattr(holder, name, len(experts))
