"""A small model as a stack of layers, for tests of what works on stacks."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's users know

from shapcut.models.layer_stack import LayerStack, Unembedding


class ToyStack(LayerStack):
    """Embedding, residual layers that mix positions, and a linear readout; counts its steps.

    Args:
        n_layers: number of layers.
        vocabulary: number of tokens.
        bias: whether the readout has one.
        declared: whether the readout is declared as an unembedding.
        batch_size: see `LayerStack`.
    """

    def __init__(self, n_layers=5, vocabulary=50, *, bias=False, declared=True, batch_size=None, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        self.batch_size = batch_size
        self.declared = declared
        self.embedding = normal(vocabulary, 16)
        self.layers = [normal(16, 16) / 4 for _ in range(n_layers)]
        self.weight = normal(vocabulary, 16)
        self.bias = normal(vocabulary) if bias else None
        self.steps = []

    def prelude(self, input_ids):
        return (self.embedding[input_ids],)

    def step(self, index, state):
        (hidden,) = state
        self.steps.append((index, len(hidden)))
        past = hidden.cumsum(1) / torch.arange(1, hidden.shape[1] + 1)[:, None]
        return (hidden + torch.tanh(past @ self.layers[index]),)

    def features(self, state):
        return F.layer_norm(state[0], (16,))

    def readout(self, state):
        return F.linear(self.features(state), self.weight, self.bias)

    def unembedding(self):
        return Unembedding(self.weight, self.bias) if self.declared else None

    def reference_logits(self, input_ids, present):
        """Logits with the given layers, computed layer by layer on the whole batch."""
        counted = list(self.steps)
        state = self.prelude(input_ids)
        for index in sorted(present):
            state = self.step(index, state)
        self.steps = counted
        return self.readout(state)


def tokens(batch=3, length=7, vocabulary=50, seed=0):
    """Random token ids, shape (batch, length)."""
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))
