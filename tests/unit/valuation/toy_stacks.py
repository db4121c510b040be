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


class ToyExperts(ToyStack):
    """A dense layer, layers of experts of which each position takes the two that it likes best, and a block.

    Players are the experts of each layer and the last block.
    """

    def __init__(self, n_moe=3, n_experts=4, **options):
        super().__init__(n_moe + 2, **options)
        generator = torch.Generator().manual_seed(1)
        self.n_experts = n_experts
        self.routers = torch.randn(n_moe + 1, 16, n_experts, generator=generator)
        self.experts = torch.randn(n_moe + 1, n_experts, 16, 16, generator=generator) / 4
        self.calls = []

    @property
    def n_players(self):
        return (len(self.layers) - 2) * self.n_experts + 1

    def stages(self, n_players):
        size = self.n_experts
        experts = [range(first, first + size) for first in range(0, n_players - 1, size)]
        return [range(0), *experts, range(n_players - 1, n_players)]

    def step(self, index, state):
        (hidden,) = super().step(index, state)
        if not 0 < index < len(self.layers) - 1:
            return (hidden,)
        return self.mixed(index, [True] * self.n_experts, hidden)

    def run(self, index, present, state):
        self.calls.append((index, tuple(present)))
        return self.mixed(index, present, *super().step(index, state))

    def mixed(self, index, present, hidden):
        scores = hidden @ self.routers[index]
        scores = scores.masked_fill(~torch.tensor(present), -torch.inf)
        best, chosen = scores.topk(min(2, sum(present)), dim=-1)
        outputs = torch.stack([hidden @ expert for expert in self.experts[index]], dim=-2)
        picked = outputs.gather(-2, chosen[..., None].expand(*chosen.shape, 16))
        return (hidden + torch.tanh((best.softmax(-1)[..., None] * picked).sum(-2)),)

    def reference_logits(self, input_ids, present):
        """Logits with these players, layer by layer on the whole batch."""
        counted, called = list(self.steps), list(self.calls)
        state = self.prelude(input_ids)
        for index, stage in enumerate(self.stages(self.n_players)):
            running = [player in set(present) for player in stage]
            if all(running):
                state = self.step(index, state)
            elif len(stage) > 1:
                state = self.run(index, running, state)
        self.steps, self.calls = counted, called
        return self.readout(state)
