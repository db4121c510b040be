"""What methods see that look inside the model instead of asking for the values of coalitions."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from shapcut.game.cost import Cost
from shapcut.game.game import Game
from shapcut.models.adapter import Adapter, Granularity
from shapcut.support.errors import InputError


@dataclass(frozen=True, eq=False, slots=True)
class ModelAccess:
    """The model behind a game and the tokens that it is played on.

    Whoever runs the model through it says so with `charge`.

    Attributes:
        model: in evaluation mode and its own number format; to be left as it is.
        adapter: how to take it apart.
        input_ids: calibration tokens, shape (samples, length), where the model wants them.
        granularity: what a player is.
        costs: the accounts that a pass is charged to.
    """

    model: nn.Module
    adapter: Adapter
    input_ids: Tensor
    granularity: Granularity
    costs: tuple[Cost, ...] = ()

    def charged_to(self, cost: Cost) -> "ModelAccess":
        """The same with one more account."""
        return replace(self, costs=(*self.costs, cost))

    def charge(self, n_players: int, *, times: int = 1) -> None:
        """Account for a forward pass over all calibration tokens; 3 times that with the backward pass."""
        for cost in self.costs:
            cost.add_pass(self.input_ids.numel(), n_players, times=times)


def require_access(game: Game | None, who: str) -> ModelAccess:
    """The access to a game's model.

    Args:
        game: the game, or None.
        who: kind and name of the method that needs it, for the message.

    Raises:
        InputError: if there is no model behind the game.
    """
    access = None if game is None else game.access
    if not isinstance(access, ModelAccess):
        raise InputError(f"{who} looks inside the model: it needs a ModelGame; this game has no model")
    return access
