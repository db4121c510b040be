"""Shared parts of charts: axes with round numbers, and the mapping from values to coordinates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TICKS = 5
_CROWDED = 8
_LOGARITHMIC_FROM = 6.0
_DECADES_FROM = 1e4

Tick = tuple[float, str]
"""A coordinate on an axis and its label."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values between ``begin`` and ``end`` to coordinates between ``first`` and ``last``.

    Attributes:
        numbers: the ticks' values.
    """

    begin: float
    end: float
    first: float
    last: float
    numbers: tuple[float, ...]
    logarithmic: bool = False

    @classmethod
    def linear(cls, low: float, high: float, first: float, last: float) -> "Scale":
        """A linear scale from the round number below ``low`` to that above ``high``."""
        numbers = axis_ticks(low, high)
        return cls(numbers[0], numbers[-1], first, last, tuple(numbers))

    @classmethod
    def powers(cls, low: float, high: float, first: float, last: float) -> "Scale":
        """A logarithmic scale exactly from ``low`` to ``high``."""
        within = [n for n in _power_ticks(low, high) if low * (1 - 1e-9) <= n <= high * (1 + 1e-9)]
        return cls(low, high, first, last, tuple(within or dict.fromkeys((low, high))), logarithmic=True)

    def place(self, value: float) -> float:
        """The coordinate of a value; the middle if all values are equal."""
        begin, end, here = (self._measure(number) for number in (self.begin, self.end, value))
        share = (here - begin) / (end - begin) if end != begin else 0.5
        return round(self.first + share * (self.last - self.first), 1)

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """The round numbers with their coordinates."""
        return tuple((self.place(number), f"{number:,.6g}") for number in self.numbers)

    def _measure(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """The frame of a chart with two axes; y points down.

    Attributes:
        width: of the whole drawing.
        height: of the whole drawing.
        left: x of the plot's left edge.
        right: x of its right edge.
        top: y of its upper edge.
        bottom: y of its lower edge.
        x_ticks: of the horizontal axis.
        y_ticks: of the vertical axis.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def axis_ticks(low: float, high: float) -> list[float]:
    """About five round numbers, the first at most ``low`` and the last at least ``high``."""
    span = high - low or 1.0
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span / _TICKS * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil((low + span) / step)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def perplexity_scale(values: Sequence[float], first: float, last: float) -> Scale:
    """A scale for positive values, logarithmic where they span more than a factor of six.

    Args:
        values: at least one.
        first: the place of the smallest.
        last: the place of the largest.
    """
    low, high = min(values), max(values)
    if high / low > _LOGARITHMIC_FROM:
        return Scale.powers(low / 1.1, high * 1.1, first, last)
    return Scale.linear(low, high, first, last)


def _power_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; for wide ranges powers only, thinned out if there are many."""
    factors = (1, 2, 5) if high / low < _DECADES_FROM else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, math.ceil(len(powers) / _CROWDED))
    return [factor * 10.0**power for power in powers[::every] for factor in factors]
