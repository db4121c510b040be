"""The cost of a method, counted in the same way for every method."""

from dataclasses import asdict, dataclass

FORWARD_AND_BACKWARD = 3
"""Cost of a forward and a backward pass, in forward passes."""


@dataclass(slots=True)
class Cost:
    """Work charged as if the method ran alone; values that another method measured before still count.

    Attributes:
        evaluations: distinct coalitions measured; a coalition counts once for each text.
        tokens: tokens processed. A coalition valued on T tokens counts T, or what it was not valued on
            before; a forward pass of the whole model over T tokens counts T, with a backward pass 3 T.
        block_tokens: tokens times the blocks that they pass through, as if no prefixes were shared.
    """

    evaluations: int = 0
    tokens: int = 0
    block_tokens: int = 0

    def add_evaluations(self, count: int, tokens: int, block_tokens: int) -> None:
        """Charge measured coalitions.

        Args:
            count: number of coalitions.
            tokens: tokens that they were valued on, summed.
            block_tokens: the same times the players that ran.
        """
        self.evaluations += count
        self.tokens += tokens
        self.block_tokens += block_tokens

    def add_pass(self, tokens: int, blocks: int, *, times: int = 1) -> None:
        """Charge ``times`` passes of ``tokens`` tokens through all ``blocks`` blocks of the model."""
        self.tokens += times * tokens
        self.block_tokens += times * tokens * blocks

    def to_json(self) -> dict[str, int]:
        """Plain data."""
        return asdict(self)
