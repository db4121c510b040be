"""The losses of a model while it is trained."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class LearningPoint(BaseModel):
    """The losses after a number of steps.

    Attributes:
        step: steps of the optimizer so far.
        loss: mean loss of the batches since the point before; None at the start.
        held_back: nats per token on each text that is not trained on; empty if not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    step: int
    loss: float | None
    held_back: Mapping[str, float] = {}


class LearningCurve(BaseModel):
    """The losses of one training, from its start to its end.

    Attributes:
        loss: what the training minimises, in nats per token.
        kept: whether the trained weights were kept.
        points: by step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    loss: str
    kept: bool
    points: tuple[LearningPoint, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts held back."""
        return tuple(dict.fromkeys(text for point in self.points for text in point.held_back))

    def thinned(self, most: int) -> tuple[LearningPoint, ...]:
        """At most ``most`` points, at least 2, evenly spread from first to last."""
        last = len(self.points) - 1
        count = min(most, len(self.points))
        return tuple(self.points[round(place * last / max(1, count - 1))] for place in range(count))
