"""The adapter for the language models of the ``mamba-ssm`` package."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from shapcut.contracts import (
    Adapter,
    Granularity,
    LayerStack,
    OutputProjection,
    Player,
    UnsupportedModelError,
)
from shapcut_adapters.mamba_ssm.checkpoint import load_model, save_model
from shapcut_adapters.mamba_ssm.examples import EXAMPLES, tiny_model
from shapcut_adapters.mamba_ssm.generation import generate_greedily, generation_state
from shapcut_adapters.mamba_ssm.package import DISTRIBUTION
from shapcut_adapters.mamba_ssm.stack import MambaStack
from shapcut_adapters.mamba_ssm.structure import STACK, blocks_of, has_known_structure, remove_blocks
from shapcut_adapters.shared.forwards import replaced_blocks
from shapcut_adapters.shared.indices import checked_indices
from shapcut_adapters.shared.output_projections import block_projections
from shapcut_adapters.shared.removal import require_removable

_USAGE = """\
from mamba_ssm import MambaLMHeadModel
from transformers import PreTrainedTokenizerFast

model = MambaLMHeadModel.from_pretrained("path/of/this/directory", device="cuda")
tokenizer = PreTrainedTokenizerFast.from_pretrained("path/of/this/directory")
"""


class MambaSSMAdapter(Adapter):
    """Blocks of ``mamba_ssm.MambaLMHeadModel``: Mamba, Mamba-2, and hybrids with attention and with MLPs.

    A model that is not on a CUDA device runs on plain PyTorch paths, see `package.import_mamba_ssm`.
    """

    name: ClassVar[str] = "mamba-ssm"
    library: ClassVar[str] = DISTRIBUTION

    def matches(self, model: nn.Module) -> bool:
        """Whether the model is the package's own and its depth matches its config."""
        return has_known_structure(model)

    def players(self, model: nn.Module, granularity: Granularity = "block") -> tuple[Player, ...]:
        """One player per block: a mixer and, in some models, an MLP."""
        blocks = _blocks(model, granularity)
        return tuple(
            Player(index, f"{STACK}.{index}", "block", sum(p.numel() for p in block.parameters()))
            for index, block in enumerate(blocks)
        )

    @contextmanager
    def bypass(
        self, model: nn.Module, present: Collection[int], granularity: Granularity = "block"
    ) -> Iterator[None]:
        """Let absent blocks return their input hidden state and residual.

        The pair represents its sum, so this is exact, also for the first block, which gets no residual.
        Contexts nest: a block runs if every open context has it present.

        Raises:
            IndexError: on entering, if an index names no block.
        """
        blocks = _blocks(model, granularity)
        running = checked_indices(present, len(blocks))
        absent = [block for index, block in enumerate(blocks) if index not in running]
        with replaced_blocks((block, _pass_on) for block in absent):
            yield

    def stack(self, model: nn.Module, granularity: Granularity = "block") -> LayerStack:
        """The model's layer stack; steps take any batch."""
        _blocks(model, granularity)
        return MambaStack(model)

    def remove(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity = "block"
    ) -> nn.Module:
        """Delete blocks in place, renumber the rest, and update the config."""
        require_removable(self, model, absent, granularity)
        remove_blocks(model, frozenset(absent))
        return model

    def differentiable_logits(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """Logits of shape (batch, length, vocabulary as padded by the model)."""
        return model(input_ids).logits  # type: ignore[no-any-return]

    def generate(self, model: nn.Module, input_ids: Tensor, new_tokens: int, *, use_cache: bool) -> Tensor:
        """Greedy continuation, on any device; attention recomputes the sequence at each step."""
        return generate_greedily(model, input_ids, new_tokens, use_cache=use_cache)

    def generation_state(self, model: nn.Module, input_ids: Tensor) -> object:
        """The package's inference cache: states, and keys and values of attention."""
        return generation_state(model, input_ids)

    def output_projections(self, model: nn.Module, player: Player) -> tuple[OutputProjection, ...]:
        """See `block_projections`."""
        return block_projections(self, model, player)

    def usage(self, model: nn.Module) -> str:  # noqa: ARG002 - all are loaded alike
        """Code that loads a checkpoint with the package."""
        return _USAGE

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write ``config.json`` and ``pytorch_model.bin``, as the package reads them."""
        blocks_of(model)
        save_model(model, directory)

    def load(self, directory: Path) -> nn.Module:
        """Load a checkpoint of the package, each weight in its stored dtype.

        Raises:
            InputError: if the package is missing.
            UnsupportedModelError: if the checkpoint and its config disagree.
        """
        return load_model(directory)

    def example(self, seed: int) -> tuple[nn.Module, Tensor]:
        """A tiny Mamba."""
        return tiny_model(next(iter(EXAMPLES.values())), seed)

    def examples(self) -> Mapping[str, Callable[[int], tuple[nn.Module, Tensor]]]:
        """Mamba with each kind of norm, Mamba-2, and a hybrid with attention and MLPs."""
        return {name: partial(tiny_model, changes) for name, changes in EXAMPLES.items()}


def _blocks(model: nn.Module, granularity: Granularity) -> nn.ModuleList:
    if granularity != "block":
        raise UnsupportedModelError(f"mamba-ssm has whole blocks as players, not {granularity}; use block")
    return blocks_of(model)


def _pass_on(hidden_states: Tensor, residual: Tensor | None = None, **_options: Any) -> Any:
    return hidden_states, residual
