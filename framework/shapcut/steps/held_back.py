"""Text held back from a step, to decide whether its result is better than the model it started from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from shapcut.game.interval import Ratio
from shapcut.measurement.perplexity import PerplexityResult, perplexity
from shapcut.models.adapter import Adapter

Losses = Mapping[str, PerplexityResult]
"""The perplexity of a model on each held-back text, by the text's name."""

_SHARE = 8
_MOST_WINDOWS = 16


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a step against the model that it started from, on held-back text.

    Attributes:
        ratios: by text, the perplexity of the result over that of the start; None if one is not finite.
    """

    ratios: Mapping[str, Ratio | None]

    @property
    def worse(self) -> tuple[str, ...]:
        """The texts on which the result is worse by more than the paired interval, or not finite."""
        return tuple(
            text
            for text, ratio in self.ratios.items()
            if ratio is None or (ratio.value > 1.0 and (ratio.interval is None or ratio.told_apart))
        )

    @property
    def mean(self) -> float:
        """The geometric mean of the ratios; infinite if one is not finite."""
        if any(ratio is None for ratio in self.ratios.values()):
            return math.inf
        logs = [math.log(max(ratio.value, 1e-300)) for ratio in self.ratios.values() if ratio is not None]
        return math.exp(sum(logs) / len(logs))

    @property
    def improves(self) -> bool:
        """Whether the result is better in the mean and on no text worse."""
        return not self.worse and self.mean < 1.0

    def summary(self) -> str:
        """One phrase, such as ``builtin -30.2%, self +1.0%``."""
        return ", ".join(
            f"{text} {'not finite' if ratio is None else f'{100 * (ratio.value - 1):+.1f}%'}"
            for text, ratio in self.ratios.items()
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {text: None if ratio is None else ratio.to_json() for text, ratio in self.ratios.items()}


def hold_back(windows: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the windows of each text into windows to fit and windows to judge by.

    An eighth of the windows, between 1 and 16, evenly spread, is held back. A text of one window is only
    fitted.

    Args:
        windows: token ids by text, each of shape (windows, length).

    Returns:
        The windows to fit and the windows held back, by text.
    """
    fitted, held = dict[str, Tensor](), dict[str, Tensor]()
    for text, found in windows.items():
        count = min(_MOST_WINDOWS, max(1, len(found) // _SHARE)) if len(found) > 1 else 0
        places = {(2 * place + 1) * len(found) // (2 * count) for place in range(count)}
        fitted[text] = found[[place for place in range(len(found)) if place not in places]]
        if places:
            held[text] = found[sorted(places)]
    return fitted, held


def losses(adapter: Adapter, model: nn.Module, held: Mapping[str, Tensor]) -> Losses:
    """The perplexity of a model on each held-back text."""
    return {text: perplexity(adapter, model, windows) for text, windows in held.items()}


def tried_against(before: Losses, after: Losses) -> Trial:
    """Compare the losses of a step's result with those of its start, window by window."""
    return Trial({text: after[text].ratio_to(found) for text, found in before.items()})
