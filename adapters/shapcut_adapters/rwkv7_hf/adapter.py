"""The adapter for RWKV-7 models of the ``rwkv7-hf`` package."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from shapcut.contracts import (
    Adapter,
    Granularity,
    LayerStack,
    OutputProjection,
    Player,
    UnsupportedModelError,
)
from shapcut_adapters.rwkv7_hf.format import read_rwkv7, register_rwkv7
from shapcut_adapters.rwkv7_hf.stack import Rwkv7Stack, as_first
from shapcut_adapters.shared.forwards import replaced_forward
from shapcut_adapters.shared.indices import checked_indices
from shapcut_adapters.shared.output_projections import block_projections
from shapcut_adapters.shared.random_weights import perturb, seeded
from shapcut_adapters.shared.removal import require_removable

_CLASS, _PACKAGE = "RWKV7ForCausalLM", "rwkv7_hf"
_USAGE = """\
from rwkv7_hf import RWKV7ForCausalLM, RWKV7Tokenizer

model = RWKV7ForCausalLM.from_pretrained("path/of/this/directory")
tokenizer = RWKV7Tokenizer.from_pretrained("path/of/this/directory")
"""


class Rwkv7HfAdapter(Adapter):
    """Blocks of RWKV-7 models that the ``rwkv7-hf`` package runs.

    Block 0 differs from the others: it norms the embedding, and gives the values that later blocks mix in.
    Without it, its successor does both, whether it is bypassed or removed.
    """

    name: ClassVar[str] = "rwkv7-hf"
    library: ClassVar[str] = "rwkv7-hf"

    def __init__(self) -> None:
        self._open: WeakKeyDictionary[nn.Module, list[frozenset[int]]] = WeakKeyDictionary()

    def matches(self, model: nn.Module) -> bool:
        """Whether the model is of the installed package's class and as deep as its config says."""
        kind = type(model)
        if kind.__name__ != _CLASS or kind.__module__.split(".")[0] != _PACKAGE:
            return False
        known: Any = model
        return bool(len(known.model.layers) == known.config.num_hidden_layers)

    def players(self, model: nn.Module, granularity: Granularity = "block") -> tuple[Player, ...]:
        """One player a block; block 0 counts the weights that mix values, which its successor then loses."""
        rwkv = _rwkv7(model, granularity)
        config = rwkv.config
        width, rank = config.attention_hidden_size, config.v_low_rank_dim
        value_mix = (config.hidden_size + width) * rank + width
        return tuple(
            Player(index, f"model.layers.{index}", "block", _own_parameters(block) + value_mix)
            for index, block in enumerate(rwkv.model.layers)
        )

    @contextmanager
    def bypass(
        self, model: nn.Module, present: Collection[int], granularity: Granularity = "block"
    ) -> Iterator[None]:
        """Let absent blocks return their input; nested contexts run the blocks common to all."""
        rwkv = _rwkv7(model, granularity)
        layers = rwkv.model.layers
        chosen = checked_indices(present, len(layers))
        contexts = self._open.setdefault(model, [])
        running = frozenset(range(len(layers))).intersection(chosen, *contexts)
        contexts.append(chosen)
        try:
            with ExitStack() as stack:
                for index in set(range(len(layers))) - running:
                    stack.enter_context(replaced_forward(layers[index], _skipping(layers[index])))
                if running:
                    stack.enter_context(as_first(layers[min(running)]))
                yield
        finally:
            contexts.pop()

    def stack(self, model: nn.Module, granularity: Granularity = "block") -> LayerStack:
        """The layer stack over the package's blocks."""
        return Rwkv7Stack(_rwkv7(model, granularity))

    def player_parameters(self, model: nn.Module, player: Player) -> list[nn.Parameter]:
        """The block's own parameters, except the embedding's norm, which moves to the next first block."""
        own = super().player_parameters(model, player)
        norm = getattr(model.get_submodule(player.name), "pre_norm", None)
        handed_on = set() if norm is None else {id(parameter) for parameter in norm.parameters()}
        return [parameter for parameter in own if id(parameter) not in handed_on]

    def remove(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity = "block"
    ) -> nn.Module:
        """Delete blocks in place, renumber the rest, and give the new first block the embedding's norm."""
        require_removable(self, model, absent, granularity)
        rwkv = _rwkv7(model, granularity)
        layers = rwkv.model.layers
        norm = layers[0].pre_norm
        for index in sorted(set(absent), reverse=True):
            del layers[index]
        for index, block in enumerate(layers):
            block.layer_idx = block.attn.layer_idx = index
        if 0 in absent:
            layers[0].pre_norm = norm
            del layers[0].attn.v_lora
        rwkv.config.num_hidden_layers = len(layers)
        rwkv.config.value_dim = rwkv.config.value_dim[: len(layers)]  # all entries are equal
        return model

    def example(self, seed: int) -> tuple[nn.Module, Tensor]:
        """Five tiny blocks."""
        model_class = register_rwkv7()
        config = model_class.config_class(
            vocab_size=96,
            hidden_size=32,
            num_hidden_layers=5,
            head_dim=16,
            intermediate_size=48,
            decay_low_rank_dim=4,
            gate_low_rank_dim=4,
            a_low_rank_dim=4,
            v_low_rank_dim=4,
        )
        generator = torch.Generator().manual_seed(seed)
        with seeded(seed):
            model: nn.Module = model_class(config)
        perturb(model, generator)
        return model.eval(), torch.randint(3, 96, (3, 8), generator=generator)

    def differentiable_logits(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """Next-token logits, called in the one way that transformers does not warn about."""
        return model(  # type: ignore[no-any-return]
            input_ids=input_ids, use_cache=False, return_dict=True
        ).logits

    def output_projections(self, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:
        """See `block_projections`."""
        return block_projections(self, model, player)

    def usage(self, model: nn.Module) -> str:  # noqa: ARG002 - the same for all
        """Code that loads a checkpoint with the package."""
        return _USAGE

    def load(self, directory: Path) -> nn.Module:
        """Load a checkpoint with the package's own class."""
        return read_rwkv7(directory)


def _rwkv7(model: nn.Module, granularity: Granularity) -> Any:
    if type(model).__name__ != _CLASS:
        raise UnsupportedModelError(f"{type(model).__name__} is not a model of the rwkv7-hf package")
    if granularity != "block":
        raise UnsupportedModelError(f"granularity {granularity!r} is not available for RWKV; use block")
    return model


def _own_parameters(block: nn.Module) -> int:
    """Number of parameters that every block has, without the embedding's norm and the value mixing."""
    return sum(
        parameter.numel()
        for name, parameter in block.named_parameters()
        if not name.startswith(("pre_norm.", "attn.v_lora."))
    )


def _skipping(block: nn.Module) -> Any:
    """A forward that returns its input; block 0 still normalises the embedding."""
    norm = getattr(block, "pre_norm", None)

    def skip(hidden_states: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        *unchanged, _attention_mask = states
        return (hidden_states if norm is None else norm(hidden_states), *unchanged)

    return skip
