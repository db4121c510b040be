"""Find the parts of a block by running it without the outputs of some of its modules.

Nothing here knows a family. Modules with matrices whose outputs are as wide as the stream are candidates. The
parts are taken for true only if the block without all of them returns its input bit for bit, and adds up from
what it does with each of them alone, one after the other or side by side.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from shapcut.contracts import State, UnsupportedModelError
from shapcut_adapters.shared.forwards import replaced_blocks
from shapcut_adapters.transformers.recorded_stack import RecordedStack
from shapcut_adapters.transformers.sublayers.parts import Nothing, Part, PartKind, first_tensor

_ROUNDINGS = 16
_MATRIX = 2
_LEVELS = 3
"""Of calls within calls: some attentions add the stream in a module of their own."""

_ATTENTION = "att"
FAULTS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)
"""What a block raises that needs what a module gives beside the stream."""


@dataclass(frozen=True, slots=True)
class _Module:
    """A module that a block calls once.

    Attributes:
        path: in the block.
        calls: the paths of the modules in whose call it is called, from the outermost one, and its own.
        nothing: what stands for its output; None if it cannot be left out.
        stream: whether its output is as wide as the stream.
        matrix: whether it has weights other than vectors.
    """

    path: str
    calls: tuple[str, ...]
    nothing: Nothing | None
    stream: bool
    matrix: bool

    @property
    def top(self) -> str:
        return self.calls[0]

    @property
    def is_candidate(self) -> bool:
        return self.nothing is not None and self.stream and self.matrix


@dataclass(slots=True)
class BlockTrial:
    """Runs of one block on one hidden state.

    Args:
        stack: whose step runs the block, after its `prelude`.
        index: of the block.
        block: the block.
        state: that enters it.
    """

    stack: RecordedStack
    index: int
    block: nn.Module
    state: State
    modules: dict[str, _Module] = field(init=False)
    full: State = field(init=False)

    def __post_init__(self) -> None:
        self.modules, self.full = self._observed()

    def groups(self) -> dict[str, list[str]]:
        """The modules whose outputs the block adds, by outermost module, in the order of their calls.

        Raises:
            UnsupportedModelError: if the block does not return its input without them.
        """
        tops = [path for path, each in self.modules.items() if path == each.top and each.is_candidate]
        for levels in sorted(product(range(_LEVELS), repeat=len(tops)), key=sum):
            groups = {top: self._inside(top, level) for top, level in zip(tops, levels, strict=True)}
            adding = [path for group in groups.values() for path in group]
            if adding and all(groups.values()) and self._same(self.without(adding), self.state[0]):
                return groups
        raise UnsupportedModelError(f"block {self.index} without them does not return its input")

    def mixes(self, groups: dict[str, list[str]], names: Collection[str]) -> bool:
        """Whether what some groups add to a token depends on the token before it."""
        others = [path for group, paths in groups.items() if group not in names for path in paths]
        first = self.without(others)
        changed = self.state[0].clone()
        changed[:, 0] = changed[:, 0].flip(-1)
        second = None if first is None else self.without(others, changed)
        if first is None or second is None:
            return False
        moved = (first - second)[:, 1:].abs().max()
        return bool(moved > _ROUNDINGS * torch.finfo(first.dtype).eps * first.abs().max())

    def split(self, groups: dict[str, list[str]]) -> list[str]:
        """The first groups, up to where they mix tokens and the others add up with them to the block.

        Covers mixers that chain several modules, none of which mixes tokens on its own.

        Raises:
            UnsupportedModelError: if there is no such place.
        """
        names = list(groups)
        for place in range(1, len(names)):
            first, last = names[:place], names[place:]
            if self.mixes(groups, first):
                with suppress(UnsupportedModelError):
                    self._require_sum([_paths(groups, first), _paths(groups, last)])
                    return first
        raise UnsupportedModelError(f"none of the modules of block {self.index} mixes tokens")

    def parts(self, kinds: Sequence[tuple[PartKind, list[str]]], groups: dict[str, list[str]]) -> list[Part]:
        """The parts that some groups make up, with the modules that serve each alone.

        Raises:
            UnsupportedModelError: if the block is not the sum of these parts.
        """
        adding = [_paths(groups, names) for _, names in kinds]
        self._require_sum(adding)
        serving = self._serving(adding)
        found = []
        for (kind, names), own, beside in zip(kinds, adding, serving, strict=True):
            silent = {path: self._nothing(path) for path in (*own, *beside)}
            found.append(Part(kind, names[0], silent))
        everything = [path for part in found for path in part.silent]
        if not self._same(self.without(everything), self.state[0]):
            raise UnsupportedModelError(f"block {self.index} needs a module of an absent part")
        return found

    def _require_sum(self, adding: Sequence[list[str]]) -> None:
        if len(adding) == 1:
            return
        mixer, mlp = adding
        only_mixer, only_mlp = self.without(mlp), self.without(mixer)
        if only_mixer is None or only_mlp is None:
            raise UnsupportedModelError(f"block {self.index} does not run without one of its parts")
        sequential = self.without(mixer, only_mixer)
        parallel = only_mixer.double() + only_mlp.double() - self.state[0].double()
        if not self._close(sequential) and not self._close(parallel):
            raise UnsupportedModelError(f"block {self.index} is not the sum of its parts")

    def _serving(self, adding: Sequence[list[str]]) -> list[list[str]]:
        """For each part, the modules whose output is not read while it is absent."""
        known = {path for part in adding for path in part}
        around = {call for path in known for call in self.modules[path].calls[:-1]}
        others = [
            path
            for path, each in self.modules.items()
            if each.nothing is not None and path not in known | around and around.issuperset(each.calls[:-1])
            if any(True for _ in self.block.get_submodule(path).parameters())
        ]
        alone = [self.without(part) for part in adding]
        found: list[list[str]] = [[] for _ in adding]
        for path in others:
            idle = [
                place
                for place, part in enumerate(adding)
                if self._same(self.without([*part, path]), alone[place])
            ]
            if len(idle) == 1:
                found[idle[0]].append(path)
        return found

    def without(self, paths: Collection[str], stream: Tensor | None = None) -> Tensor | None:
        """What the block returns without the outputs of some modules; None if it does not run."""
        state = self.state if stream is None else (stream, *self.state[1:])
        given = ((self.block.get_submodule(path), self._nothing(path).forward) for path in paths)
        try:
            with replaced_blocks(given):
                return self.stack.step(self.index, state)[0]
        except FAULTS:
            return None

    def _nothing(self, path: str) -> Nothing:
        nothing = self.modules[path].nothing
        if nothing is None:
            raise UnsupportedModelError(f"block {self.index} cannot run without {path}")
        return nothing

    def _same(self, found: Tensor | None, expected: Tensor | None) -> bool:
        return found is not None and expected is not None and torch.equal(found, expected)

    def _close(self, found: Tensor | None) -> bool:
        """Whether a result is the whole block's, up to rounding."""
        if found is None:
            return False
        full = self.full[0].double()
        return bool((found.double() - full).abs().max() <= self._rounding(full))

    def _rounding(self, full: Tensor) -> float:
        return _ROUNDINGS * torch.finfo(self.full[0].dtype).eps * float(full.abs().max())

    def _inside(self, top: str, level: int) -> list[str]:
        """The candidates at a given call depth below an outermost module."""
        inside = (each for each in self.modules.values() if each.top == top and len(each.calls) == level + 1)
        return [each.path for each in inside if each.is_candidate]

    def _observed(self) -> tuple[dict[str, _Module], State]:
        """The modules that the block calls once, down to a few calls within calls, and its output."""
        calls: list[tuple[str, Nothing | None, bool]] = []
        width = self.state[0].shape[-1]
        with ExitStack() as hooks:
            for path, module in self.block.named_modules():
                if path:
                    handle = module.register_forward_hook(_note(path, width, calls), with_kwargs=True)
                    hooks.callback(handle.remove)
            full = self.stack.step(self.index, self.state)
        paths = [path for path, _, _ in calls]
        return {
            path: _Module(path, above, nothing, stream, _has_matrix(self.block.get_submodule(path)))
            for path, nothing, stream in calls
            if len(above := _calls(path, paths)) <= _LEVELS and paths.count(path) == 1
        }, full


def _paths(groups: dict[str, list[str]], names: Collection[str]) -> list[str]:
    return [path for name in names for path in groups[name]]


def _calls(path: str, called: Collection[str]) -> tuple[str, ...]:
    """A path, after those of the modules around it that are called."""
    parts = path.split(".")
    above = (".".join(parts[:length]) for length in range(1, len(parts)))
    return (*(each for each in above if each in called), path)


def _note(path: str, width: int, calls: list[tuple[str, Nothing | None, bool]]) -> Any:
    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        first = first_tensor(output)
        stream = first is not None and first.shape[-1:] == (width,)
        calls.append((path, Nothing.like(args, kwargs, output), stream))

    return note


def _has_matrix(module: nn.Module) -> bool:
    return any(tensor.dim() >= _MATRIX for tensor in (*module.parameters(), *module.buffers()))


def is_attention(path: str, module: nn.Module) -> bool:
    """Whether a module or its class is called attention; linear attention is a recurrence."""
    names = (path.rpartition(".")[2].lower(), type(module).__name__.lower())
    return any(_ATTENTION in name for name in names) and not any("linear" in name for name in names)
