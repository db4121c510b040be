"""The targets of a recipe, for a loaded model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from shapcut.estimators.sampling import removable
from shapcut.game.coalitions import Player
from shapcut.game.feasible import require_permitted
from shapcut.game.game import Game
from shapcut.game.groups import Groups
from shapcut.game.mixed import mixed_layers
from shapcut.game.target import Target
from shapcut.measurement.player_cache import PlayerCaches, player_caches
from shapcut.measurement.player_latency import PlayerLatencies, player_latencies
from shapcut.models.adapter import Adapter
from shapcut.models.forms import remnants_of_players
from shapcut.recipe.cache_limit import cache_limit
from shapcut.recipe.recipe import Recipe
from shapcut.selection.base import require_removable
from shapcut.selection.mixed_cuts import require_mixed_cut
from shapcut.support.errors import InputError
from shapcut.support.run_directory import Run
from shapcut.valuation.model_game import ModelGame


def make_targets(
    recipe: Recipe,
    players: Sequence[Player],
    model: nn.Module,
    latencies: Callable[[], PlayerLatencies],
    *,
    caches: Callable[[int], PlayerCaches],
    remnants: Sequence[int],
) -> tuple[Target, ...]:
    """Create the recipe's targets, in order, and check that each can be reached.

    Args:
        recipe: the recipe.
        players: the model's players.
        model: the model, for its sizes.
        latencies: returns the latencies of the players; called only if a target needs them.
        caches: returns what the players hold of the cache after a number of tokens; called likewise.
        remnants: number of parameters that stay in the place of each player.

    Raises:
        InputError: if a target is already met or out of reach, with the nearest reachable amount.
    """
    kind, amounts = recipe.target_amounts()
    groups = Groups.of(players)
    total = sum(weight.numel() for weight in model.parameters())
    freed = [player.parameters - kept for player, kept in zip(players, remnants, strict=True)]
    targets = []
    for label, amount in zip(recipe.target_labels(), amounts, strict=True):
        if kind == "ratio" and mixed_layers(players):
            target = _at_most(
                [float(count) for count in freed],
                players,
                (total, int(total * (1.0 - amount))),
                label,
                f"{amount:.4g} of the parameters less",
            )
        elif kind in {"remove", "ratio"}:
            target = Target.count(players, recipe.number(kind, amount, len(players), len(groups)), label)
        elif kind == "parameters":
            costs = [float(count) for count in freed]
            target = _at_most(costs, players, (total, int(amount)), label, f"at most {amount:,} parameters")
        elif kind == "memory":
            target = _memory_target(players, freed, model, amount, label=label)
        elif kind == "cache":
            target = _cache_target(players, amount, label, caches)
        else:
            target = _speed_target(players, amount, label, latencies)
        targets.append(target if mixed_layers(players) else target.by_group(groups))
    return tuple(targets)


def _memory_target(
    players: Sequence[Player], freed: Sequence[int], model: nn.Module, amount: float, *, label: str
) -> Target:
    costs = [count * bytes_per_parameter(model, player) for count, player in zip(freed, players, strict=True)]
    text = f"at most {amount:,} bytes of weights"
    return _at_most(costs, players, (checkpoint_size(model), int(amount)), label, text)


def _speed_target(
    players: Sequence[Player], amount: float, label: str, latencies: Callable[[], PlayerLatencies]
) -> Target:
    if len(Groups.of(players)) > 1 and not mixed_layers(players):
        raise InputError(
            f"--speedup {amount:g}: the time of a part that runs for some tokens only is unknown; give "
            "--remove, --ratio, --parameters or --memory"
        )
    shares = latencies().shares()
    target = _target(shares, players, 1.0 - 1.0 / amount, label, f"{amount:g} times the speed")
    _require(target, lambda best: f"at most {1 / (1 - best):.2f} times" if best < 1 else "any speed")
    return target


def _cache_target(
    players: Sequence[Player], amount: str, label: str, caches: Callable[[int], PlayerCaches]
) -> Target:
    limit = cache_limit(amount)
    found = caches(limit.length)
    if not any(found.saved):
        raise InputError(
            f"--cache {amount}: no player holds a part of the cache ({found.total:,} bytes after "
            f"{limit.length:,} tokens); choose another --granularity"
        )
    text = f"at most {limit.size:,} bytes of cache after {limit.length:,} tokens"
    return _at_most(found.saved, players, (found.total, limit.size), label, text)


def checkpoint_size(model: nn.Module) -> int:
    """Bytes of the tensors in a checkpoint; shared ones count once."""
    tensors = {id(tensor): tensor for tensor in model.parameters()}
    persistent = {name for name, _ in model.named_buffers()} & set(model.state_dict(keep_vars=True))
    buffers = [buffer for name, buffer in model.named_buffers() if name in persistent]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*tensors.values(), *buffers])


def bytes_per_parameter(model: nn.Module, player: Player) -> float:
    """Mean element size of a player's weights, or of the whole model's if the player is not a module."""
    module = dict(model.named_modules()).get(player.name)
    weights = [] if module is None else list(module.parameters())
    weights = weights or list(model.parameters())
    count = sum(weight.numel() for weight in weights)
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    return float(size / max(1, count))


def _at_most(
    costs: Sequence[float], players: Sequence[Player], sizes: tuple[int, int], label: str, text: str
) -> Target:
    """A target for ``sizes``: the current size and the largest allowed one."""
    total, limit = sizes
    if limit >= total:
        raise InputError(f"--{label.partition('-')[0]}: the model has {total:,}, which is {text} already")
    target = _target(costs, players, float(total - limit), label, text)
    _require(target, lambda best: f"{total - best:,.0f} or more")
    return target


def _target(
    costs: Sequence[float], players: Sequence[Player], needed: float, label: str, text: str
) -> Target:
    gains = (cost if player.removable else 0.0 for player, cost in zip(players, costs, strict=True))
    return Target(tuple(gains), needed, label, text)


def _require(target: Target, best: Callable[[float], str]) -> None:
    """Refuse a target that is not reached even by removing all players but one."""
    costs = sorted(target.costs, reverse=True)
    most = float(sum(costs[: len(costs) - 1]))
    if not target.candidates or most < target.needed:
        option, _, _ = target.label.partition("-")
        raise InputError(f"--{option}: {target.text} cannot be reached by removing players; {best(most)} can")


@dataclass(slots=True)
class Stopwatch:
    """Measures the players' latencies on first use, unless an earlier start of the run stored them.

    Also what they hold of the cache.

    Attributes:
        adapter: the model's adapter.
        game: the game whose model and players are timed.
        seed: seed of the prompt.
        run_directory: the run directory, or None.
        found: the latencies, or None before the first use.
    """

    adapter: Adapter
    game: ModelGame
    seed: int
    run_directory: Path | None
    found: PlayerLatencies | None = None

    def measure(self) -> PlayerLatencies:
        """The latencies, from an earlier start if stored."""
        model, granularity = self.game.model, self.game.granularity
        fingerprint = self.game.model_fingerprint
        if self.found is None and self.run_directory is not None:
            self.found = PlayerLatencies.read(Run(self.run_directory).latencies, fingerprint, granularity)
        if self.found is None:
            found = player_latencies(self.adapter, model, self.game.players, granularity, seed=self.seed)
            self.found = found.model_copy(update={"model_fingerprint": fingerprint})
        return self.found

    def caches(self, length: int) -> PlayerCaches:
        """What the players hold of the cache after ``length`` tokens."""
        model, granularity = self.game.model, self.game.granularity
        return player_caches(
            self.adapter, model, self.game.players, granularity, length=length, seed=self.seed
        )


def prepare_targets(recipe: Recipe, game: ModelGame, watch: Stopwatch) -> tuple[Target, ...]:
    """Create the recipe's targets and check that some permitted set reaches each.

    Raises:
        InputError: if a target is out of reach.
    """
    recipe.require_target(game.n_players, len(Groups.of(game.players)))
    if recipe.cache is not None and recipe.granularity == "sublayer" and recipe.form == "plain":
        raise InputError(
            "--cache with --granularity sublayer removes attentions and keeps their MLPs, which takes a "
            "checkpoint with a modelling file: add --form remote-code, or remove blocks"
        )
    remnants = remnants_of_players(watch.adapter, game.model, game.players, recipe.granularity, recipe.form)
    targets = make_targets(
        recipe, game.players, game.model, watch.measure, caches=watch.caches, remnants=remnants
    )
    for target in targets:
        check_target(target, game, recipe.seed)
    return targets


def check_target(target: Target, game: Game, seed: int) -> None:
    """Check that some set that reaches the target may be removed.

    Raises:
        InputError: otherwise.
    """
    rng = np.random.default_rng(seed)
    if mixed_layers(game.players):
        require_mixed_cut(game, target)
    elif target.number is None:
        target.require_permitted(game.permits, rng)
    else:
        require_removable(game.players, target.number)
        groups = Groups.of(game.players)
        require_permitted(removable(game.players).tolist(), target.number, game.permits, rng, groups=groups)
