"""An RWKV model as a module: the raw weights of a .pth file, run by the ``rwkv`` package's functions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know
from torch import Tensor, nn

from shapcut_adapters.rwkv.block_weights import BlockWeights
from shapcut_adapters.rwkv.layers import Flow, Memory, run_block
from shapcut_adapters.rwkv.weights import BLOCK_WEIGHT, Version, version_of

_FIRST_NORM = "blocks.0.ln0."
"""The file's prefix for the norm of the embedding, which no block owns."""


class RwkvModel(nn.Module):
    """RWKV 4, 5.2, 6 or 7. Inference only: the package's functions have no gradients.

    Computes in fp32 with fp16 weights, because hidden states of deep models overflow fp16; the package
    divides weights instead, which would be wrong after a removal.

    Args:
        weights: raw weights under the names of the file.
        source: where they are from, for messages.

    Raises:
        UnsupportedModelError: if they are not those of a version that is known here.
    """

    def __init__(self, weights: Mapping[str, Tensor], source: str = "the model") -> None:
        super().__init__()
        self.version: Version = version_of(weights, source)
        self.blocks = nn.ModuleList()
        for name, tensor in weights.items():
            self._add(name, nn.Parameter(tensor, requires_grad=False))
        self._running: frozenset[nn.Module] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the computation."""
        own = self._weight("emb.weight").dtype
        return torch.float32 if own == torch.float16 else own

    def raw_weights(self) -> dict[str, Tensor]:
        """The weights under their names in a file."""
        return {
            f"blocks.0.{name}" if name.startswith("ln0.") else name: parameter
            for name, parameter in self.named_parameters()
        }

    @contextmanager
    def running(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        """Run only these blocks; nested contexts run the blocks common to all."""
        before = self._running
        self._running = frozenset(blocks) if before is None else before & frozenset(blocks)
        try:
            yield
        finally:
            self._running = before

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of shape (batch, length, vocabulary) for token ids of shape (batch, length)."""
        with torch.no_grad():
            return torch.stack([self.continued(row, None)[0] for row in input_ids])

    def continued(
        self, tokens: Tensor, memory: Mapping[nn.Module, Memory] | None
    ) -> tuple[Tensor, dict[nn.Module, Memory]]:
        """Logits (length, vocabulary) of one sequence's further tokens, and the blocks' memories."""
        flow = Flow(self.embedded(tokens))
        after: dict[nn.Module, Memory] = {}
        for block in self.blocks:
            if self._running is None or block in self._running:
                flow, after[block] = self.run(block, flow, None if memory is None else memory[block])
        return self.features(flow.hidden) @ self.unembedding.t(), after

    def embedded(self, tokens: Tensor) -> Tensor:
        """The input of the first block, for token ids of any shape."""
        embedding = F.embedding(tokens, self._weight("emb.weight")).to(self.dtype)
        return self._normed("ln0", embedding)

    def run(self, block: nn.Module, flow: Flow, memory: Memory | None = None) -> tuple[Flow, Memory]:
        """Run one block on further tokens of one sequence."""
        weights = BlockWeights(dict(block.named_parameters()), self.dtype)
        return run_block(self.version)(weights, flow, memory)

    def features(self, hidden: Tensor) -> Tensor:
        """The input of the unembedding, for the output of the last block."""
        return self._normed("ln_out", hidden)

    @property
    def unembedding(self) -> Tensor:
        """The unembedding matrix, shape (vocabulary, width)."""
        return self._weight("head.weight").to(self.dtype)

    def _weight(self, name: str) -> Tensor:
        return self.get_parameter(name)

    def _normed(self, name: str, hidden: Tensor) -> Tensor:
        weight, bias = (self._weight(f"{name}.{part}").to(self.dtype) for part in ("weight", "bias"))
        return F.layer_norm(hidden, hidden.shape[-1:], weight, bias)

    def _add(self, name: str, parameter: nn.Parameter) -> None:
        found = None if name.startswith(_FIRST_NORM) else BLOCK_WEIGHT.match(name)
        owner: nn.Module = self
        if found:
            while len(self.blocks) <= int(found[1]):
                self.blocks.append(nn.Module())
            owner, name = self.blocks[int(found[1])], found[2]
        *path, last = name.removeprefix("blocks.0.").split(".")
        for part in path:
            if part not in owner._modules:  # noqa: SLF001 - a module's children by name
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(last, parameter)
