"""What a method has cost, counted in the same way for every method."""

from dataclasses import asdict, dataclass

FORWARD_AND_BACKWARD = 3
"""A backward pass does about twice the work of the forward pass that it belongs to."""


@dataclass(slots=True)
class Cost:
    """Work that a method has asked for, as if it had been alone: nothing is free because others asked before.

    Attributes:
        evaluations: distinct coalitions measured; one that was measured on several texts counts for each.
        tokens: tokens processed: a coalition that is valued on T tokens counts T, so does a forward pass of
            the whole model over them; forward and backward together count 3 T.
        block_tokens: tokens times the blocks that they went through, without any sharing of prefixes.
    """

    evaluations: int = 0
    tokens: int = 0
    block_tokens: int = 0

    def add_evaluations(self, count: int, present: int, tokens: int) -> None:
        """Coalitions were measured.

        Args:
            count: how many.
            present: players that ran, summed over the coalitions.
            tokens: tokens that each was valued on.
        """
        self.evaluations += count
        self.tokens += count * tokens
        self.block_tokens += present * tokens

    def add_pass(self, tokens: int, blocks: int, *, times: int = 1) -> None:
        """The whole model read ``tokens`` tokens in its ``blocks`` blocks, outside any coalition."""
        self.tokens += times * tokens
        self.block_tokens += times * tokens * blocks

    def to_json(self) -> dict[str, int]:
        """Plain data."""
        return asdict(self)
