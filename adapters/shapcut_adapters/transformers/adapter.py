"""The adapter for decoder-only causal language models of transformers."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.contracts import (
    Adapter,
    CheckpointForm,
    Example,
    ExpertStatistic,
    FamilySupport,
    Granularity,
    LayerStack,
    OutputProjection,
    Player,
    UnsupportedModelError,
    is_quantized,
)
from shapcut_adapters.shared.forwards import replaced_blocks
from shapcut_adapters.shared.indices import checked_indices
from shapcut_adapters.shared.output_projections import found_projections
from shapcut_adapters.shared.removal import require_removable
from shapcut_adapters.transformers.decoder import Decoder, find_blocks, find_decoder, forward, input_device
from shapcut_adapters.transformers.experts.layout import rows_objection
from shapcut_adapters.transformers.experts.players import Experts
from shapcut_adapters.transformers.experts.stack import ExpertStack
from shapcut_adapters.transformers.experts.statistics import expert_statistics
from shapcut_adapters.transformers.families import (
    FAMILIES,
    WRAPPERS,
    family_of,
    has_own_code,
    is_wrapper,
)
from shapcut_adapters.transformers.families.rules import Cut
from shapcut_adapters.transformers.file_cut import (
    files_objection,
    is_cut_as_files,
    save_cut,
    save_without_predictors,
)
from shapcut_adapters.transformers.interception import Container, learn_containers, skipped, without_cache
from shapcut_adapters.transformers.mixed.players import Mixed
from shapcut_adapters.transformers.mixed.stack import MixedStack
from shapcut_adapters.transformers.recorded_stack import RecordedStack
from shapcut_adapters.transformers.removal import (
    blocks_objection,
    needed_blocks,
    pinned_blocks,
    remove_blocks,
)
from shapcut_adapters.transformers.replay_check import replays_exactly
from shapcut_adapters.transformers.sublayers.players import SubLayers
from shapcut_adapters.transformers.sublayers.remote_code import save_with_code
from shapcut_adapters.transformers.sublayers.removal import (
    form_objections,
    parts_remnants,
    plain_objection,
    remove_parts,
)
from shapcut_adapters.transformers.sublayers.stack import SubLayerStack
from shapcut_adapters.transformers.tiny_models import tiny_model, tiny_wrapper

_CHECK_SHAPE = (3, 16)
_CHECK_VOCABULARY = 32
_OBSERVED_TOKENS = 4096


_SUPPORTED = Path(__file__).with_name("supported.json")
"""What `benchmarks/families.py` found, written by `benchmarks/tables.py`."""


class HFDecoderAdapter(Adapter):
    """Blocks, sub-layers and experts of the decoder-only models in `shapcut_adapters.transformers.families`.

    Models must be in evaluation mode. The adapter probes once per model what its blocks return and whether
    their calls can be replayed, and caches the answer with the model.
    """

    name: ClassVar[str] = "hf-decoder"

    def __init__(self) -> None:
        self._containers: WeakKeyDictionary[nn.Module, dict[type, Container]] = WeakKeyDictionary()
        self._stack_batch_sizes: WeakKeyDictionary[nn.Module, tuple[int | None, ...]] = WeakKeyDictionary()

    def matches(self, model: nn.Module) -> bool:
        """Whether the model's class belongs to a known family and its layers are in place."""
        family = family_of(model)
        return family is not None and find_blocks(model, family) is not None

    def families(self) -> tuple[FamilySupport, ...]:
        """Every family of causal language models that transformers has, as it was tried."""
        found: dict[str, dict[str, Any]] = json.loads(_SUPPORTED.read_text(encoding="utf-8"))
        return tuple(
            FamilySupport(
                name,
                verdict=row["verdict"],
                model_class=row["model_class"],
                limits=tuple(row["limits"]),
                granularities=tuple(row["granularities"]),
                fast=row["fast"],
            )
            for name, row in found.items()
        )

    def players(self, model: nn.Module, granularity: Granularity = "block") -> tuple[Player, ...]:
        """One player per block, by its dotted path; or as `SubLayers`, `Experts` and `Mixed` say."""
        if granularity == "expert":
            return Experts.of(model).players()
        if granularity == "sublayer":
            return SubLayers.of(model).players()
        if granularity == "mixed":
            return Mixed.of(model).players()
        decoder = find_decoder(model)
        pinned = pinned_blocks(decoder)
        return tuple(
            Player(
                index,
                f"{decoder.stack}.{index}",
                "block",
                parameters,
                removable=index not in pinned,
                reason=pinned.get(index, ""),
            )
            for index, parameters in enumerate(decoder.block_parameters())
        )

    @contextmanager
    def bypass(
        self, model: nn.Module, present: Collection[int], granularity: Granularity = "block"
    ) -> Iterator[None]:
        """Let absent blocks return their input hidden state; runs the model without a cache.

        Absent sub-layers add nothing, and absent experts are not among those that their router chooses from.
        Contexts nest: a player runs if every open context has it present.

        Raises:
            IndexError: on entering, if an index names no player.
            UnsupportedModelError: on entering, if other blocks cannot run without an absent one.
            ShapcutError: from a forward pass with ``past_key_values``.
        """
        if granularity == "expert":
            with Experts.of(model).bypass(present):
                yield
            return
        if granularity == "sublayer":
            with SubLayers.of(model).bypass(present):
                yield
            return
        if granularity == "mixed":
            with Mixed.of(model).bypass(present):
                yield
            return
        decoder = find_decoder(model)
        running = checked_indices(present, len(decoder.blocks))
        for index, reason in needed_blocks(decoder).items():
            if index not in running:
                raise UnsupportedModelError(f"block {index} cannot be absent: {reason}")
        containers = self._block_containers(decoder)
        absent = [block for index, block in enumerate(decoder.blocks) if index not in running]
        with ExitStack() as stack:
            stack.enter_context(without_cache(decoder.owner))
            stack.enter_context(replaced_blocks(skipped(decoder, containers, absent)))
            yield

    def stack(self, model: nn.Module, granularity: Granularity = "block") -> LayerStack | None:
        """The recorded calls of the blocks, or None if replaying them differs from the model."""
        decoder = find_decoder(model)
        experts = Experts.of(model) if granularity == "expert" else None
        sublayers = SubLayers.of(model) if granularity == "sublayer" else None
        mixed = Mixed.of(model) if granularity == "mixed" else None
        if model not in self._stack_batch_sizes:
            self._stack_batch_sizes[model] = self._usable_batch_sizes(decoder)
        if not (usable := self._stack_batch_sizes[model]):
            return None
        containers = self._block_containers(decoder)
        if experts is not None:
            return ExpertStack(experts, containers, usable[0])
        if sublayers is not None:
            return SubLayerStack(sublayers, containers, usable[0])
        if mixed is not None:
            return MixedStack(mixed, containers, usable[0])
        return RecordedStack(decoder, containers, usable[0])

    def input_device(self, model: nn.Module) -> torch.device:
        """The device that accelerate executes on if it manages the weights, else that of the weights."""
        return input_device(model)

    def remove(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity = "block"
    ) -> nn.Module:
        """Delete blocks, renumber the rest, and shorten the config; see `Family.rebuild`.

        A family that must be rebuilt gives a new model that shares the remaining weights. Experts are cut
        from their packed weights and from the router; sub-layers take the first of `checkpoint_forms`.
        """
        require_removable(self, model, absent, granularity)
        if granularity == "expert":
            return Experts.of(model).remove(absent)
        if granularity in {"sublayer", "mixed"}:
            form = self.checkpoint_forms(model, absent, granularity)[0]
            return self.remove_as(model, absent, granularity, form)
        decoder = find_decoder(model)
        return remove_blocks(decoder, _cut(decoder, absent))

    def checkpoint_forms(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity = "block"
    ) -> tuple[CheckpointForm, ...]:
        """See `Adapter.checkpoint_forms`; only sub-layers need another one than the model's own."""
        if granularity == "mixed":
            objections = Mixed.of(model).form_objections(absent)
        elif granularity == "sublayer":
            objections = form_objections(SubLayers.of(model), absent)
        else:
            return super().checkpoint_forms(model, absent, granularity)
        return tuple(form for form, objection in objections.items() if not objection)

    def remove_as(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity, form: CheckpointForm
    ) -> nn.Module:
        """See `Adapter.remove_as`; a form other than ``same`` gives a new model that shares the weights."""
        if granularity == "sublayer":
            return remove_parts(SubLayers.of(model), absent, form)
        if granularity == "mixed":
            return Mixed.of(model).remove(absent, form)
        return super().remove_as(model, absent, granularity, form)

    def remnants(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity, form: CheckpointForm
    ) -> int:
        """See `Adapter.remnants`: a sibling family keeps tiny MLPs."""
        if granularity == "mixed":
            return Mixed.of(model).remnants(absent, form)
        if granularity != "sublayer":
            return 0
        return parts_remnants(SubLayers.of(model), absent, form)

    def can_remove(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity = "block"
    ) -> str | None:
        """As `Adapter.can_remove`; the family's rules or the router may also object to a set."""
        if granularity == "expert":
            return Experts.of(model).objection(absent) or None
        if granularity == "sublayer":
            return plain_objection(SubLayers.of(model), absent) or None
        if granularity == "mixed":
            return Mixed.of(model).objection(absent) or None
        decoder = find_decoder(model)
        return blocks_objection(decoder, _cut(decoder, checked_indices(absent, len(decoder.blocks)))) or None

    def expert_statistics(
        self, model: nn.Module, input_ids: Tensor
    ) -> Mapping[ExpertStatistic, NDArray[np.float64]]:
        """See `Adapter.expert_statistics`; experts that are given all tokens cannot be observed."""
        mixtures = [mixture for mixture in Experts.of(model).mixtures if mixture is not None]

        def run() -> None:
            for ids in torch.split(input_ids, max(1, _OBSERVED_TOKENS // input_ids.shape[1])):
                self.logits(model, ids)

        return expert_statistics(mixtures, run)

    def canonicalise(self, model: nn.Module) -> nn.Module:
        """Undo or prevent in-place weight changes by the family's model."""
        family = family_of(model)
        if family is not None and family.canonicalise is not None:
            family.canonicalise(model)
        return model

    def generate(self, model: nn.Module, input_ids: Tensor, new_tokens: int, *, use_cache: bool) -> Tensor:
        """As `Adapter.generate`; one sequence at a time where cached decoding in transformers requires it."""
        parts = torch.split(input_ids, 1 if use_cache and _decodes_singly(model) else len(input_ids))
        generate = super().generate
        return torch.cat([generate(model, part, new_tokens, use_cache=use_cache) for part in parts])

    def sample(
        self, model: nn.Module, input_ids: Tensor, new_tokens: int, *, top_p: float, seed: int
    ) -> Tensor:
        """As `Adapter.sample`; one sequence at a time where cached decoding in transformers requires it."""
        parts = torch.split(input_ids, 1 if _decodes_singly(model) else len(input_ids))
        sample, places = super().sample, range(len(parts))
        return torch.cat([sample(model, parts[at], new_tokens, top_p=top_p, seed=seed + at) for at in places])

    def player_parameters(self, model: nn.Module, player: Player) -> list[nn.Parameter]:
        """The parameters of a block or sub-layer that nothing outside it shares.

        Raises:
            UnsupportedModelError: for an expert, whose weights are parts of parameters.
        """
        if player.kind == "expert":
            raise UnsupportedModelError(f"{player.name} has no parameters of its own, only slices; use block")
        if player.kind != "block":
            return SubLayers.of(model).parameters(player)
        return find_decoder(model).own_parameters()[player.index]

    def player_weights(self, model: nn.Module, player: Player) -> list[Tensor]:
        """As `Adapter.player_weights`; an expert's slices, also of the router and its biases."""
        if player.kind == "expert":
            return Experts.of(model).weights(player)
        return super().player_weights(model, player)

    def output_projections(self, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:
        """See `found_projections`.

        Sub-layers and experts have none. Weights that other blocks share, or that accelerate manages, are not
        declared linear.
        """
        if player.kind != "block":
            return ()
        decoder = find_decoder(model)
        stack = self.stack(model)
        if stack is None:
            return ()
        before = [index for index in needed_blocks(decoder) if index < player.index]
        block = decoder.blocks[player.index]
        found = found_projections(
            stack, player.index, block, player.name, device=input_device(model), before=before
        )
        own = {id(parameter) for parameter in decoder.own_parameters()[player.index]}
        return tuple(_unless_shared(model, projection, own) for projection in found)

    def cache_differs(self, model: nn.Module) -> str:
        """The family's declared fault, if any."""
        return "" if has_own_code(model) else find_decoder(model).family.cache_differs

    def dtype_objection(self, model: nn.Module, dtype: torch.dtype) -> str:
        """Torch multiplies packed experts only if their rows are whole multiples of 16 bytes."""
        return rows_objection(model, dtype)

    def independent_fields(self, model: nn.Module) -> Collection[str]:
        """As declared by the family."""
        if has_own_code(model):
            return ()
        beside = ("vision_config.*", "audio_config.*") if is_wrapper(model) else ()
        own = find_decoder(model).family.independent_fields
        return (*own, *(f"text_config.{field}" for field in own if beside), *beside)

    def has_plain_blocks(self, model: nn.Module) -> bool:
        """As declared by the family; False for quantized models, which other tools cannot start from.

        False too if ``layer_types`` of the config differ, since those tools would leave the list as it is.
        """
        if (
            has_own_code(model)
            or not find_decoder(model).family.plain
            or is_quantized(model)
            or is_wrapper(model)
        ):
            return False
        return len(set(getattr(model.config, "layer_types", None) or ())) <= 1

    def usage(self, model: nn.Module) -> str:
        """As `Adapter.usage`, with the auto class of multimodal models."""
        loader = "AutoModelForImageTextToText" if is_wrapper(model) else "AutoModelForCausalLM"
        code = super().usage(model).replace("AutoModelForCausalLM", loader)
        if not has_own_code(model):
            return code
        first, _, tokenizer = code.rpartition(")\ntokenizer")  # the model's line
        return f"{first}, trust_remote_code=True)\ntokenizer{tokenizer}"

    def save(self, model: nn.Module, directory: Path) -> None:
        """As `Adapter.save`; if memory and checkpoint hold different weights, cut the checkpoint's files."""
        if has_own_code(model):
            save_with_code(model, directory)
        elif is_cut_as_files(model):
            save_cut(find_decoder(model), directory)
        else:
            save_without_predictors(model, directory)

    def files_objection(self, model: nn.Module, source: Path) -> str:
        """As `Adapter.files_objection`; layers must have the names that transformers knows."""
        if has_own_code(model):
            return f"a {type(model).__name__} has a modelling file of its own"
        return files_objection(find_decoder(model), source)

    def save_files(self, model: nn.Module, source: Path, directory: Path) -> None:
        """As `Adapter.save_files`."""
        save_cut(find_decoder(model), directory, source)

    def example(self, seed: int) -> tuple[nn.Module, Tensor]:
        """A tiny Llama."""
        return tiny_model(FAMILIES[0], seed)

    def examples(self) -> Mapping[str, Example]:
        """A tiny model per family, by ``model_type``, and per kind of multimodal model."""
        alone: dict[str, Example] = {family.model_type: partial(tiny_model, family) for family in FAMILIES}
        return alone | {wrapper.model_type: partial(tiny_wrapper, wrapper) for wrapper in WRAPPERS}

    def _block_containers(self, decoder: Decoder) -> dict[type, Container]:
        if decoder.model not in self._containers:
            self._containers[decoder.model] = learn_containers(decoder)
        return self._containers[decoder.model]

    def _usable_batch_sizes(self, decoder: Decoder) -> tuple[int | None, ...]:
        """The first exact choice of any batch (None) and single sequences (1); empty if neither is exact."""
        model = decoder.model
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(_CHECK_VOCABULARY, _CHECK_SHAPE, generator=generator).to(input_device(model))
        every_second = frozenset(range(1, len(decoder.blocks), 2)).difference(needed_blocks(decoder))
        with torch.no_grad():
            expected = {frozenset[int](): forward(model, ids)}
            with self.bypass(model, frozenset(range(len(decoder.blocks))) - every_second):
                expected[every_second] = forward(model, ids)
            for batch_size in (None, 1):
                stack = RecordedStack(decoder, self._block_containers(decoder), batch_size)
                if replays_exactly(stack, ids, expected):
                    return (batch_size,)
        return ()


def _decodes_singly(model: nn.Module) -> bool:
    family = family_of(model)
    return family is not None and family.decodes_singly


def _unless_shared(model: nn.Module, found: OutputProjection, own: Collection[int]) -> OutputProjection:
    modules = [model.get_submodule(name) for name in (found.module, found.normed) if name]
    alone = all(id(parameter) in own for module in modules for parameter in module.parameters())
    return found if alone else replace(found, linear=False, normed="")


def _cut(decoder: Decoder, absent: Collection[int]) -> Cut:
    depth = len(decoder.blocks)
    return Cut(depth, tuple(index for index in range(depth) if index not in absent))
