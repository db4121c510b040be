"""The contract between the core and an architecture.

An adapter says what the players of a model are, how to run the model without some of them, and how to
remove them for good. The conformance kit (`shapcut.testing`) checks every statement made here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from shapcut.game.coalitions import Player
from shapcut.models.layer_stack import LayerStack, OutputProjection
from shapcut.support.errors import UnsupportedModelError

Granularity = Literal["block", "sublayer"]

Example = Callable[[int], tuple[nn.Module, Tensor]]
"""Builds a tiny model and token ids of shape (batch, length) from a seed, offline."""

CONTRACT_VERSION = 1

_REMEMBERED = ("past_key_values", "cache_params", "state")
"""Where the outputs of transformers' models have what generation goes on from."""

_TRANSFORMERS_USAGE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/of/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/directory")
"""


class Adapter(ABC):
    """How to enumerate, bypass and remove the players of one kind of model.

    Adapters keep no state of a model between calls other than caches that can be rebuilt.

    Attributes:
        name: under which it is registered.
        contract_version: of this contract.
        library: the distribution that reads the checkpoints that `save` writes.
    """

    name: ClassVar[str]
    library: ClassVar[str] = "transformers"
    contract_version: ClassVar[int] = CONTRACT_VERSION

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Whether this adapter handles ``model``: cheap, no forward pass."""

    @abstractmethod
    def players(self, model: nn.Module, granularity: Granularity = "block") -> tuple[Player, ...]:
        """The players in the order in which they run.

        Raises:
            UnsupportedModelError: if the model cannot be split that way.
        """

    @abstractmethod
    def bypass(
        self, model: nn.Module, present: Collection[int], granularity: Granularity = "block"
    ) -> AbstractContextManager[None]:
        """Run only the players in ``present`` while the context is open.

        This is the reference semantics: universal and exact, not fast. No weight is copied or changed, and
        everything is as before when the context closes, after an exception too.

        Raises:
            IndexError: on entering, before the model is touched, if an index names no player.
            UnsupportedModelError: on entering, if a player is absent that others cannot run without; such a
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
        """Builders of named examples, one for each family claimed; by default the one of `example`."""
        return {self.name: self.example}

    def stack(self, model: nn.Module, granularity: Granularity = "block") -> LayerStack | None:  # noqa: ARG002
        """The model taken apart for fast evaluation, or None if only `bypass` is exact."""
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
        present = len(players) - len(set(absent))
        if present < self.min_present(model):
            return f"only {present} players would stay, at least {self.min_present(model)} are needed"
        return None

    def player_parameters(self, model: nn.Module, player: Player) -> list[nn.Parameter]:
        """Parameters of which nothing may be seen while the player is absent: its own, unshared ones.

        By default those of the module that the player is named after which no module outside it has.
        """
        inside = f"{player.name}."
        shared = {
            id(parameter)
            for name, module in model.named_modules(remove_duplicate=False)
            if name != player.name and not name.startswith(inside)
            for parameter in module.parameters(recurse=False)
        }
        return [p for p in model.get_submodule(player.name).parameters() if id(p) not in shared]

    def output_projections(self, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:  # noqa: ARG002
        """The modules whose outputs add up to what a player adds to the stream, in their order of running.

        Empty if what the player adds is not such a sum, or if that is not known: then nothing can be folded
        into it. The modules are called, once each, by the player's step in `stack`.
        """
        return ()

    def cache_differs(self, model: nn.Module) -> str:  # noqa: ARG002
        """Why the whole model decodes other tokens with a cache than without one, empty if it does not.

        For faults of an architecture's own library. Where one is declared, decoding with a cache is compared
        with the reloaded model instead.
        """
        return ""

    def min_present(self, model: nn.Module) -> int:  # noqa: ARG002
        """The smallest number of players that the architecture can run with."""
        return 1

    def canonicalise(self, model: nn.Module) -> nn.Module:
        """Put a freshly loaded model into the form in which it can be measured, removed from and saved."""
        return model

    def input_device(self, model: nn.Module) -> torch.device:
        """Where token ids go: by default to where the model's first parameter is."""
        return next(model.parameters()).device

    def logits(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """Next-token logits of shape (batch, length, vocabulary), without a cache."""
        with torch.inference_mode():
            return self.differentiable_logits(model, input_ids)

    def differentiable_logits(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """As `logits`, in the caller's gradient mode: what training goes through.

        Raises:
            UnsupportedModelError: if the architecture's library gives no gradients.
        """
        return model(input_ids=input_ids, use_cache=False).logits  # type: ignore[no-any-return]

    def generate(self, model: nn.Module, input_ids: Tensor, new_tokens: int, *, use_cache: bool) -> Tensor:
        """Greedy continuation, shape (batch, length + new_tokens), never stopped by an end token."""
        generator: Any = model
        with torch.inference_mode():
            return generator.generate(  # type: ignore[no-any-return]
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                use_cache=use_cache,
                pad_token_id=0,
            )

    def generation_state(self, model: nn.Module, input_ids: Tensor) -> Any:
        """What the model keeps for further tokens after reading these: any object that holds the tensors.

        By default what transformers returns: keys and values of attention, states of recurrent layers.

        Args:
            model: in evaluation mode.
            input_ids: shape (batch, length).

        Raises:
            UnsupportedModelError: if it returns nothing that it would go on from.
        """
        with torch.inference_mode():
            output = model(input_ids=input_ids, use_cache=True, return_dict=True)
        found = [getattr(output, name, None) for name in _REMEMBERED]
        if all(part is None for part in found):
            raise UnsupportedModelError(f"{type(model).__name__} returns no cache")
        return found

    def has_plain_blocks(self, model: nn.Module) -> bool:  # noqa: ARG002
        """Whether tools that know blocks by number only (llama.cpp, mergekit) cut this model exactly."""
        return False

    def usage(self, model: nn.Module) -> str:  # noqa: ARG002 - for models that need different code
        """Python code that loads what `save` writes of this model, without shapcut; for the model card."""
        return _TRANSFORMERS_USAGE

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write a checkpoint that `load` and the architecture's own library can read."""
        saver: Any = model
        saver.save_pretrained(directory)

    def load(self, directory: Path) -> nn.Module:
        """Read a checkpoint as the architecture's own library does, refusing missing or unexpected weights.

        Raises:
            UnsupportedModelError: if the checkpoint and the config disagree.
        """
        from transformers import AutoModelForCausalLM  # noqa: PLC0415 - adapters need not be for transformers

        loader: Any = AutoModelForCausalLM
        model, info = loader.from_pretrained(
            directory, output_loading_info=True, local_files_only=True, dtype="auto"
        )
        wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys") if info[kind]}
        if wrong:
            raise UnsupportedModelError(f"the checkpoint in {directory} does not fit its config: {wrong}")
        return model.eval()  # type: ignore[no-any-return]
