"""The contract between the core and an architecture.

An adapter defines a model's players, runs the model without some of them, and removes them for good. The
conformance kit (`shapcut.testing`) checks every statement made here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.game.checkpoint_form import CheckpointForm
from shapcut.game.coalitions import Player
from shapcut.game.granularity import GRANULARITIES, Granularity
from shapcut.game.groups import equal_by_group
from shapcut.models.layer_stack import LayerStack
from shapcut.models.multimodal import auto_class
from shapcut.models.output_projection import OutputProjection
from shapcut.models.predictors import is_predictor
from shapcut.support.errors import UnsupportedModelError

ExpertStatistic = Literal["frequency", "ean", "reap"]
"""See `Adapter.expert_statistics`."""

Example = Callable[[int], tuple[nn.Module, Tensor]]
"""Builds a tiny model and token ids of shape (batch, length) from a seed, offline."""

CONTRACT_VERSION = 2
SUPPORTED_CONTRACTS = (1, 2)
"""Version 2 adds `Adapter.granularities`, `.expert_statistics`, `.checkpoint_forms`, `.remove_as`,
`.remnants`, `.sample` and `.dtype_objection`, `Player.group`, and `LayerStack.stages`, each with a
default."""

_STATE_FIELDS = ("past_key_values", "cache_params", "state")
"""Fields of a transformers output that hold the generation state."""

_TRANSFORMERS_USAGE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/of/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/directory")
"""


@dataclass(frozen=True, slots=True)
class FamilySupport:
    """What can be removed from one family of models.

    Attributes:
        name: the config's ``model_type``, or the adapter's own name for the family.
        verdict: ``exact``, ``exact with constraints``, or ``refused: REASON``.
        model_class: the class of its models; empty if there are several.
        limits: conditions on the config, and sets that are refused.
        granularities: what a player can be; empty if it is refused.
        fast: whether coalitions share their beginnings.
    """

    name: str
    verdict: str
    model_class: str = ""
    limits: tuple[str, ...] = ()
    granularities: tuple[str, ...] = ("block",)
    fast: bool = True

    @property
    def supported(self) -> bool:
        """Whether anything can be removed."""
        return self.verdict.startswith("exact")


class Adapter(ABC):
    """How to enumerate, bypass and remove the players of one kind of model.

    Adapters keep no per-model state between calls except caches that can be rebuilt.

    Attributes:
        name: under which the adapter is registered.
        contract_version: version of this contract that the adapter implements.
        library: distribution that loads the checkpoints written by `save`.
    """

    name: ClassVar[str]
    library: ClassVar[str] = "transformers"
    contract_version: ClassVar[int] = CONTRACT_VERSION

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Whether this adapter handles ``model``. Cheap: no forward pass."""

    @abstractmethod
    def players(self, model: nn.Module, granularity: Granularity = "block") -> tuple[Player, ...]:
        """The players in execution order.

        Raises:
            UnsupportedModelError: if the model cannot be split that way.
        """

    def granularities(self, model: nn.Module) -> tuple[Granularity, ...]:
        """The granularities at which this model has players, coarsest first."""
        found = []
        for granularity in GRANULARITIES:
            with suppress(UnsupportedModelError):
                self.players(model, granularity)
                found.append(granularity)
        return tuple(found)

    @abstractmethod
    def bypass(
        self, model: nn.Module, present: Collection[int], granularity: Granularity = "block"
    ) -> AbstractContextManager[None]:
        """Run only the players in ``present`` while the context is open.

        This is the reference semantics: universal and exact, not fast. No weight is copied or changed.
        Closing the context restores the model, also after an exception.

        Raises:
            IndexError: on entering, before the model is touched, if an index names no player.
            UnsupportedModelError: on entering, if other players cannot run without an absent one; such a
                player is not removable.
        """

    @abstractmethod
    def remove(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity = "block"
    ) -> nn.Module:
        """Remove players for good, in place; weights, indices and config agree afterwards.

        Returns:
            The model to use from now on (the same object where that is possible).

        Raises:
            IndexError: before the model is touched, if an index names no player.
            UnsupportedModelError: before the model is touched, if `can_remove` objects.
        """

    @abstractmethod
    def example(self, seed: int) -> tuple[nn.Module, Tensor]:
        """A tiny random model with at least 4 players and token ids of shape (batch, length), offline."""

    def examples(self) -> Mapping[str, Example]:
        """Builders of named examples, one per supported family; by default only `example`."""
        return {self.name: self.example}

    def families(self) -> tuple[FamilySupport, ...]:
        """What can be removed from each family; by default every example is exact, as the kit checks."""
        return tuple(FamilySupport(name, "exact") for name in self.examples())

    def stack(self, model: nn.Module, granularity: Granularity = "block") -> LayerStack | None:  # noqa: ARG002
        """The model split for fast evaluation, or None if only `bypass` is exact."""
        return None

    def can_remove(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity = "block"
    ) -> str | None:
        """Why this set cannot be removed, as one sentence, or None if it can.

        Raises:
            IndexError: if an index names no player.
        """
        players = self.players(model, granularity)
        if wrong := sorted(set(absent) - set(range(len(players)))):
            raise IndexError(f"no players {wrong}: the model has players 0..{len(players) - 1}")
        for index in sorted(absent):
            if not players[index].removable:
                return f"player {index} ({players[index].name}) cannot be removed: {players[index].reason}"
        if not equal_by_group(players, set(absent)):
            return "each group of players must lose equally many"
        present = len(players) - len(set(absent))
        if present < self.min_present(model):
            return f"only {present} players would stay, at least {self.min_present(model)} are needed"
        return None

    def checkpoint_forms(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity = "block"
    ) -> tuple[CheckpointForm, ...]:
        """The forms in which the model without this set can be written, best first; empty if there is none.

        `can_remove` objects unless ``same`` or ``sibling`` is among them, and `remove` takes the first one of
        those.

        Raises:
            IndexError: if an index names no player.
        """
        return () if self.can_remove(model, absent, granularity) else ("same",)

    def remove_as(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity, form: CheckpointForm
    ) -> nn.Module:
        """As `remove`, in a given form of `checkpoint_forms`; may return another object.

        Raises:
            IndexError: before the model is touched, if an index names no player.
            UnsupportedModelError: before the model is touched, if the form is not among them.
        """
        if form != "same":
            raise UnsupportedModelError(f"adapter {self.name} writes no checkpoint of the form {form}")
        return self.remove(model, absent, granularity)

    def remnants(
        self,
        model: nn.Module,
        absent: Collection[int],
        granularity: Granularity,
        form: CheckpointForm,
    ) -> int:
        """The number of parameters that a form keeps in the place of absent players; by default 0."""
        del model, absent, granularity, form
        return 0

    def player_parameters(self, model: nn.Module, player: Player) -> list[nn.Parameter]:
        """The parameters that only this player uses; they must not affect the output while it is absent.

        By default the parameters of the module named ``player.name`` that no module outside it shares.
        """
        inside = f"{player.name}."
        shared = {
            id(parameter)
            for name, module in model.named_modules(remove_duplicate=False)
            if name != player.name and not name.startswith(inside)
            for parameter in module.parameters(recurse=False)
        }
        return [p for p in model.get_submodule(player.name).parameters() if id(p) not in shared]

    def expert_statistics(
        self,
        model: nn.Module,
        input_ids: Tensor,  # noqa: ARG002 - for models with experts
    ) -> Mapping[ExpertStatistic, NDArray[np.float64]]:
        """Statistics of the experts from one forward pass of the whole model.

        Args:
            model: in evaluation mode.
            input_ids: shape (samples, length), on the model's device.

        Returns:
            Three arrays of shape (n_players,), each higher for experts that are more worth keeping:
            ``frequency``, the share of tokens that are routed to the expert; ``ean``, the norm of its output,
            summed over these tokens; ``reap``, the router's weight times that norm, mean over these tokens
            (0 for an expert without tokens).

        Raises:
            UnsupportedModelError: if the model has no experts, or they cannot be observed.
        """
        raise UnsupportedModelError(
            f"adapter {self.name}: the experts of {type(model).__name__} cannot be observed; "
            "choose a method that measures coalitions"
        )

    def player_weights(self, model: nn.Module, player: Player) -> list[Tensor]:
        """The weights that only this player uses, as tensors that share the model's memory.

        By default those of `player_parameters`. A player whose weights are slices of larger tensors, such as
        an expert, has views of the slices.
        """
        return [parameter.detach() for parameter in self.player_parameters(model, player)]

    def output_projections(self, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:  # noqa: ARG002
        """The modules whose outputs sum to the player's update of the residual stream, in execution order.

        Empty if the update is not such a sum, or if that is unknown; nothing can then be folded into the
        player. The player's step in `stack` calls each module exactly once.
        """
        return ()

    def cache_differs(self, model: nn.Module) -> str:  # noqa: ARG002
        """Why cached and uncached decoding of the whole model differ; empty if they agree.

        For bugs in the architecture's own library. With one declared, the conformance kit compares cached
        decoding with that of the reloaded model instead.
        """
        return ""

    def dtype_objection(self, model: nn.Module, dtype: torch.dtype) -> str:  # noqa: ARG002
        """Why the model cannot run with its weights in another number format; empty if it can."""
        return ""

    def independent_fields(self, model: nn.Module) -> Collection[str]:  # noqa: ARG002
        """Config fields that do not follow the layers although their name or value suggests it.

        Dotted paths of the written config; ``*`` matches any part. An encoder's depth, for example.
        """
        return ()

    def min_present(self, model: nn.Module) -> int:  # noqa: ARG002
        """The smallest number of players the architecture can run with."""
        return 1

    def canonicalise(self, model: nn.Module) -> nn.Module:
        """Prepare a freshly loaded model for measuring, removal and saving."""
        return model

    def input_device(self, model: nn.Module) -> torch.device:
        """The device for token ids; by default that of the model's first parameter."""
        return next(model.parameters()).device

    def logits(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """Next-token logits of shape (batch, length, vocabulary), without a cache."""
        with torch.inference_mode():
            return self.differentiable_logits(model, input_ids)

    def differentiable_logits(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """As `logits`, in the caller's gradient mode; used for training.

        Raises:
            UnsupportedModelError: if the architecture's library does not support gradients.
        """
        return model(input_ids=input_ids, use_cache=False).logits  # type: ignore[no-any-return]

    def generate(self, model: nn.Module, input_ids: Tensor, new_tokens: int, *, use_cache: bool) -> Tensor:
        """Greedy continuation, shape (batch, length + new_tokens), never stopped by an end token."""
        return _generated(model, input_ids, new_tokens, do_sample=False, use_cache=use_cache)

    def sample(
        self, model: nn.Module, input_ids: Tensor, new_tokens: int, *, top_p: float, seed: int
    ) -> Tensor:
        """Sampled continuation, shape (batch, length + new_tokens), never stopped by an end token.

        Args:
            model: in evaluation mode.
            input_ids: shape (batch, length).
            new_tokens: number of tokens to sample.
            top_p: total probability of the tokens to sample from, the most likely ones.
            seed: of the draws; the global random state is left as it is.

        Raises:
            UnsupportedModelError: if the architecture's library does not sample.
        """
        from transformers import GenerationMixin  # noqa: PLC0415 - seconds to import

        if not isinstance(model, GenerationMixin):
            raise UnsupportedModelError(
                f"adapter {self.name}: {type(model).__name__} cannot write text to calibrate on; "
                "name a text with --calibration"
            )
        devices = [] if input_ids.device.type == "cpu" else [input_ids.device]
        with torch.random.fork_rng(devices, device_type=input_ids.device.type if devices else "cuda"):
            torch.manual_seed(seed)
            return _generated(
                model, input_ids, new_tokens, do_sample=True, use_cache=True, top_k=0, top_p=top_p
            )

    def generation_state(self, model: nn.Module, input_ids: Tensor) -> Any:
        """The generation state after reading ``input_ids``: any object that holds its tensors.

        By default the cache that transformers returns: keys and values of attention, states of recurrent
        layers.

        Args:
            model: in evaluation mode.
            input_ids: shape (batch, length).

        Raises:
            UnsupportedModelError: if the model returns no generation state.
        """
        with torch.inference_mode():
            output = model(input_ids=input_ids, use_cache=True, return_dict=True)
        found = [getattr(output, name, None) for name in _STATE_FIELDS]
        if all(part is None for part in found):
            raise UnsupportedModelError(f"{type(model).__name__} returns no cache")
        return found

    def has_plain_blocks(self, model: nn.Module) -> bool:  # noqa: ARG002
        """Whether tools that address blocks by number (llama.cpp, mergekit) cut this model exactly."""
        return False

    def usage(self, model: nn.Module) -> str:  # noqa: ARG002 - for models that need different code
        """Python code that loads the saved model without shapcut, for the model card."""
        return _TRANSFORMERS_USAGE

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write a checkpoint readable by `load` and by the architecture's own library."""
        saver: Any = model
        saver.save_pretrained(directory)

    def files_objection(self, model: nn.Module, source: Path) -> str:  # noqa: ARG002
        """Why `save_files` cannot write a cut of the checkpoint in ``source``; empty if it can.

        Args:
            model: loaded from ``source``, whole or cut.
            source: a directory of safetensors files.
        """
        return f"the adapter {self.name} does not cut files"

    def save_files(self, model: nn.Module, source: Path, directory: Path) -> None:  # noqa: ARG002
        """Write the checkpoint in ``source`` without the players that ``model`` lacks.

        Each tensor is copied byte for byte, so its number format is kept. Called only if `files_objection`
        has none, for a model whose weights nothing has changed since it was loaded.

        Raises:
            UnsupportedModelError: if the checkpoint cannot be cut so.
        """
        raise UnsupportedModelError(self.files_objection(model, source))

    def load(self, directory: Path) -> nn.Module:
        """Load a checkpoint as the architecture's own library does; refuse missing or unexpected weights.

        Raises:
            UnsupportedModelError: if the checkpoint and the config disagree.
        """
        from transformers import AutoConfig  # noqa: PLC0415 - adapters need not be for transformers

        loader = auto_class(AutoConfig.from_pretrained(directory, local_files_only=True))
        model, info = loader.from_pretrained(
            directory, output_loading_info=True, local_files_only=True, dtype="auto"
        )
        config = model.config
        unexpected = [name for name in info["unexpected_keys"] if not is_predictor(name, config)]
        found = {"missing_keys": info["missing_keys"], "unexpected_keys": unexpected}
        wrong = {kind: sorted(names) for kind, names in found.items() if names}
        if wrong:
            raise UnsupportedModelError(f"the checkpoint in {directory} does not fit its config: {wrong}")
        return model.eval()  # type: ignore[no-any-return]


def _generated(model: nn.Module, input_ids: Tensor, new_tokens: int, **options: Any) -> Tensor:
    """A continuation by transformers, of exactly this many tokens."""
    generator: Any = model
    with torch.inference_mode(), _plain_generation(generator):
        return generator.generate(  # type: ignore[no-any-return]
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            pad_token_id=0,
            **options,
        )


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Set the checkpoint's own generation settings aside: its beams or time limit would steer decoding."""
    from transformers import GenerationConfig  # noqa: PLC0415 - seconds to import

    config: Any = GenerationConfig
    own = model.generation_config
    model.generation_config = config(eos_token_id=getattr(own, "eos_token_id", None))
    try:
        yield
    finally:
        model.generation_config = own
