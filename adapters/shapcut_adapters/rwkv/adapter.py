"""The adapter for .pth models of the ``rwkv`` package."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from shapcut.contracts import Adapter, Granularity, LayerStack, Player, UnsupportedModelError
from shapcut_adapters.rwkv.examples import VERSIONS, tiny_rwkv
from shapcut_adapters.rwkv.format import read_model, weight_file
from shapcut_adapters.rwkv.layers import Memory
from shapcut_adapters.rwkv.model import RwkvModel
from shapcut_adapters.rwkv.stack import RwkvStack
from shapcut_adapters.rwkv.weights import WEIGHT_FILE, write_weights
from shapcut_adapters.shared.indices import checked_indices
from shapcut_adapters.shared.removal import require_removable

_USAGE = """\
import os

os.environ["RWKV_V7_ON"] = "{seven}"  # read by the import
from rwkv.model import RWKV

model = RWKV(model="path/of/this/directory/{name}", strategy="cpu fp32")
"""


class RwkvPackageAdapter(Adapter):
    """Blocks of RWKV 4, 5.2, 6 and 7 models that were read from a .pth file.

    The norm of the embedding always stays. In v7 the first running block provides the values that later
    blocks mix in: bypassing block 0, like removing it, makes its successor the first.
    """

    name: ClassVar[str] = "rwkv"
    library: ClassVar[str] = "rwkv"

    def matches(self, model: nn.Module) -> bool:
        """Whether the model was read by the format ``rwkv-pth``."""
        return isinstance(model, RwkvModel)

    def players(self, model: nn.Module, granularity: Granularity = "block") -> tuple[Player, ...]:
        """One player per block."""
        return tuple(
            Player(index, f"blocks.{index}", "block", sum(p.numel() for p in block.parameters()))
            for index, block in enumerate(_rwkv(model, granularity).blocks)
        )

    @contextmanager
    def bypass(
        self, model: nn.Module, present: Collection[int], granularity: Granularity = "block"
    ) -> Iterator[None]:
        """Skip the calls of absent blocks."""
        rwkv = _rwkv(model, granularity)
        indices = checked_indices(present, len(rwkv.blocks))
        with rwkv.running([block for index, block in enumerate(rwkv.blocks) if index in indices]):
            yield

    def stack(self, model: nn.Module, granularity: Granularity = "block") -> LayerStack:
        """The package's functions, block by block."""
        return RwkvStack(_rwkv(model, granularity))

    def remove(
        self, model: nn.Module, absent: Collection[int], granularity: Granularity = "block"
    ) -> nn.Module:
        """Delete blocks in place; later ones move up."""
        require_removable(self, model, absent, granularity)
        rwkv = _rwkv(model, granularity)
        for index in sorted(set(absent), reverse=True):
            del rwkv.blocks[index]
        return rwkv

    def example(self, seed: int) -> tuple[nn.Module, Tensor]:
        """A tiny RWKV 7."""
        return tiny_rwkv("7", seed)

    def examples(self) -> Mapping[str, Callable[[int], tuple[nn.Module, Tensor]]]:
        """A tiny model of every version."""
        return {f"rwkv-{version}": partial(tiny_rwkv, version) for version in VERSIONS}

    def logits(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """Next-token logits, sequence by sequence."""
        with torch.inference_mode():
            return model(input_ids)  # type: ignore[no-any-return]

    def differentiable_logits(self, model: nn.Module, input_ids: Tensor) -> Tensor:  # noqa: ARG002
        """Unsupported by the package."""
        raise UnsupportedModelError("the rwkv package's functions give no gradients")

    def generate(self, model: nn.Module, input_ids: Tensor, new_tokens: int, *, use_cache: bool) -> Tensor:
        """Greedy continuation; with a cache each step resumes from the blocks' states."""
        rwkv = _rwkv(model)
        with torch.inference_mode():
            return torch.stack([_continuation(rwkv, row, new_tokens, use_cache) for row in input_ids])

    def generation_state(self, model: nn.Module, input_ids: Tensor) -> object:
        """The blocks' states for each sequence."""
        rwkv = _rwkv(model)
        with torch.inference_mode():
            return [list(rwkv.continued(row, None)[1].values()) for row in input_ids]

    def usage(self, model: nn.Module) -> str:
        """Code that loads a checkpoint with the package."""
        seven = int(_rwkv(model).version == "7")
        return _USAGE.format(seven=seven, name=WEIGHT_FILE.removesuffix(".pth"))

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write ``model.pth``: a plain dictionary of raw weights, as the package reads it."""
        write_weights(_rwkv(model).raw_weights(), directory / WEIGHT_FILE)

    def load(self, directory: Path) -> nn.Module:
        """Read the one .pth file of a directory."""
        return read_model(weight_file(directory))


def _rwkv(model: nn.Module, granularity: Granularity = "block") -> RwkvModel:
    if not isinstance(model, RwkvModel):
        raise UnsupportedModelError(f"{type(model).__name__} is not a model read from an RWKV .pth file")
    if granularity != "block":
        raise UnsupportedModelError(f"granularity {granularity!r} is not available for RWKV; use block")
    return model


def _continuation(model: RwkvModel, tokens: Tensor, new_tokens: int, use_cache: bool) -> Tensor:
    """A sequence with its greedy continuation, shape (length + new_tokens,)."""
    unread, memory = tokens, None
    for _ in range(new_tokens):
        found: Mapping[nn.Module, Memory]
        logits, found = model.continued(unread if use_cache else tokens, memory)
        chosen = logits[-1].argmax()[None]
        tokens = torch.cat((tokens, chosen))
        if use_cache:
            unread, memory = chosen, found
    return tokens
