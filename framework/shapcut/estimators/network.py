"""The paper's surrogate network."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shapcut.game.coalitions import CoalitionMatrix, Values
from shapcut.game.surrogate import Surrogate

_HEADROOM = 0.05
_ROWS_AT_ONCE = 8_192


class NetworkSurrogate(Surrogate):
    """Linear(n, 2n), CELU, Linear(2n, 1), sigmoid; trained as in arXiv 2602.07804.

    SGD with learning rate 0.008, momentum 0.9, batches of 300, 300 epochs, a step decay of 0.1 every 100,
    mean squared error. Unlike in the reference, the sigmoid spans the range of the data with some headroom,
    to represent values above 1 (or below 0, for other utilities).

    Args:
        generator: source of the initial weights and of the order of batches.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        epochs: int = 300,
        batch_size: int = 300,
        learning_rate: float = 0.008,
        momentum: float = 0.9,
        decay_every: int = 100,
    ) -> None:
        self.generator = generator
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.decay_every = decay_every

    def fit(self, coalitions: CoalitionMatrix, values: Values) -> "NetworkSurrogate":
        """Train from scratch on finite values."""
        self._low, self._range = _output_range(values)
        inputs = torch.from_numpy(coalitions.astype(np.float32))
        targets = torch.from_numpy(((values - self._low) / self._range).astype(np.float32))
        self._network = self._fresh_network(inputs.shape[1])
        optimiser = torch.optim.SGD(self._network.parameters(), lr=self.learning_rate, momentum=self.momentum)
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_size=self.decay_every, gamma=0.1)
        for _ in range(self.epochs):
            for rows in self._batches(len(inputs)):
                optimiser.zero_grad()
                loss = nn.functional.mse_loss(self._scaled(inputs[rows]), targets[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            schedule.step()
        return self

    def predict(self, coalitions: CoalitionMatrix) -> Values:
        """The network's value of each row."""
        with torch.inference_mode():
            output = self._scaled(torch.from_numpy(coalitions.astype(np.float32)))
        return self._low + self._range * output.numpy().astype(np.float64)

    def mean_marginals(self, coalitions: CoalitionMatrix) -> NDArray[np.float64]:
        """Mean over the rows of ``f(S with i) - f(S without i)`` for each player i, shape (n_players,).

        One hidden layer is shared by all 2n variations of a row: switching player i moves it by one column.
        """
        total = torch.zeros(coalitions.shape[1], dtype=torch.float64)
        with torch.inference_mode():
            for start in range(0, len(coalitions), _ROWS_AT_ONCE):
                total += self._marginals(torch.from_numpy(coalitions[start : start + _ROWS_AT_ONCE])).sum(0)
        return self._range * (total / len(coalitions)).numpy()

    def _marginals(self, present: Tensor) -> Tensor:
        """f(S with i) - f(S without i) in units of the range, (rows, n_players), float64."""
        first, second = (layer for layer in self._network if isinstance(layer, nn.Linear))
        rows = present.float()
        hidden = first(rows)
        own = self._scaled(rows)
        columns = []
        for player in range(rows.shape[1]):
            sign = 1.0 - 2.0 * rows[:, player]
            flipped = hidden + sign[:, None] * first.weight[:, player]
            other = torch.sigmoid(second(nn.functional.celu(flipped)))[:, 0]
            columns.append(sign * (other - own))
        return torch.stack(columns, dim=1).double()

    def _scaled(self, inputs: Tensor) -> Tensor:
        output: Tensor = self._network(inputs)
        return output[:, 0]

    def _batches(self, rows: int) -> Iterator[Tensor]:
        order = torch.randperm(rows, generator=self.generator)
        yield from torch.split(order, self.batch_size)

    def _fresh_network(self, n_players: int) -> nn.Sequential:
        blank: Any = nn.utils.skip_init  # leaves the global generator alone
        first, second = blank(nn.Linear, n_players, 2 * n_players), blank(nn.Linear, 2 * n_players, 1)
        network = nn.Sequential(first, nn.CELU(), second, nn.Sigmoid())
        for layer in network.modules():
            if not isinstance(layer, nn.Linear):
                continue
            bound = layer.in_features**-0.5
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=self.generator)
                layer.bias.uniform_(-bound, bound, generator=self.generator)
        return network


def _output_range(values: Values) -> tuple[float, float]:
    """Lowest output of the network and the width of its range: at least [0, 1] for values inside it."""
    low, high = float(values.min()), float(values.max())
    if low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    headroom = _HEADROOM * (high - low)
    low = 0.0 if low >= 0.0 else low - headroom
    return low, (high + headroom - low) or 1.0
