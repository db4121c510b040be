"""Access to the model behind a game, for methods that look inside it instead of evaluating coalitions."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from shapcut.game.cost import Cost
from shapcut.game.game import Game
from shapcut.game.granularity import Granularity
from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError


@dataclass(frozen=True, eq=False, slots=True)
class ModelAccess:
    """The model behind a game, with its calibration tokens.

    Report every pass through the model with `charge`.

    Attributes:
        model: in evaluation mode and its own dtype; must not be changed.
        adapter: the model's adapter.
        input_ids: calibration tokens, shape (samples, length), on the model's device.
        granularity: what a player is.
        costs: accounts to charge passes to.
    """

    model: nn.Module
    adapter: Adapter
    input_ids: Tensor
    granularity: Granularity
    costs: tuple[Cost, ...] = ()

    def charged_to(self, cost: Cost) -> "ModelAccess":
        """The same access with one more account."""
        return replace(self, costs=(*self.costs, cost))

    def charge(self, n_players: int, *, times: int = 1) -> None:
        """Charge a forward pass over all calibration tokens; use ``times=3`` with the backward pass."""
        for cost in self.costs:
            cost.add_pass(self.input_ids.numel(), n_players, times=times)


def require_access(game: Game | None, who: str) -> ModelAccess:
    """The access to a game's model.

    Args:
        game: the game, or None.
        who: kind and name of the method, for the message.

    Raises:
        InputError: if the game has no model.
    """
    access = None if game is None else game.access
    if not isinstance(access, ModelAccess):
        raise InputError(f"{who} looks inside the model, but this game has no model; use a ModelGame")
    return access
