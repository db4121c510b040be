"""Where the experts of a model are: packed weights, the router that chooses them, and what counts them."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from shapcut.contracts import UnsupportedModelError, is_quantized
from shapcut_adapters.transformers.decoder import Decoder

COUNT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Config fields that count the experts of a layer."""

TOP_K_FIELDS = ("top_k_experts",)
"""Config fields that a router reads in its forward to know how many experts it picks."""

_COUNTERS = (
    *COUNT_FIELDS,
    "num_routed_experts",
    "total_experts",
    "n_total_experts",
    "num_router_classes",
)
"""Attributes of modules that count a layer's experts, alone or with others that always stay."""

_ROUTERS = ("gate", "router")
_TOP_K = "top_k"
_VECTOR, _MATRIX, _PACKED = 1, 2, 3
_GROUPED_BYTES = 16
"""The size of a row must be a multiple of this many bytes."""

_FEWEST = 2
"""Experts that stay at least: some families build a layer of one expert as an ordinary MLP."""


@dataclass(frozen=True, slots=True)
class Table:
    """A tensor with one slice for each expert.

    Attributes:
        path: of the tensor, in its mixture.
        dim: the dimension along which the slices lie.
        width: the slices' size along it.
    """

    path: str
    dim: int = 0
    width: int = 1

    def of(self, mixture: nn.Module) -> Tensor:
        """The tensor."""
        owner, name = self.owner(mixture)
        found: Tensor = getattr(owner, name)
        return found

    def owner(self, mixture: nn.Module) -> tuple[nn.Module, str]:
        """The module that has the tensor, and its name there."""
        path, _, name = self.path.rpartition(".")
        return mixture.get_submodule(path), name

    def view(self, tensor: Tensor, expert: int) -> Tensor:
        """A view of one expert's slice."""
        return tensor.narrow(self.dim, expert * self.width, self.width)

    def kept(self, tensor: Tensor, experts: Collection[int], count: int) -> Tensor:
        """The slices of some of ``count`` experts, with what lies behind those of all."""
        staying = torch.tensor([*experts, *range(count, tensor.shape[self.dim] // self.width)])
        rows = (staying[:, None] * self.width + torch.arange(self.width)).flatten()
        return tensor.index_select(self.dim, rows.to(tensor.device))


@dataclass(frozen=True, slots=True)
class Mixture:
    """The mixture of experts in one layer.

    Attributes:
        layer: index of the layer.
        path: dotted path of the experts in the model.
        module: the module that calls the router and the experts.
        router: the module that chooses.
        experts: the module with the experts' weights.
        count: the number of experts.
        top_k: how many a token is routed to.
        weights: slices of the experts' own weights.
        routing: slices of what the router chooses by.
        ranks_groups: whether the router chooses groups of experts first.
        groups: how many equal groups the router divides the experts into.
        chosen_groups: in how many of them a token's experts are.
    """

    layer: int
    path: str
    module: nn.Module
    router: nn.Module
    experts: nn.Module
    count: int
    top_k: int
    weights: tuple[Table, ...]
    routing: tuple[Table, ...]
    ranks_groups: bool
    groups: int
    chosen_groups: int

    @property
    def tables(self) -> tuple[Table, ...]:
        """All slices of an expert."""
        return (*self.weights, *self.routing)

    @property
    def choices(self) -> int:
        """How many the router chooses from: the experts, and those without weights behind them."""
        tables = ((table, table.of(self.module)) for table in self.routing)
        return min(tensor.shape[table.dim] for table, tensor in tables)

    def expert_parameters(self) -> int:
        """The number of parameters that go with one expert."""
        owned = ((table, table.of(self.module)) for table in self.tables)
        return sum(table.view(t, 0).numel() for table, t in owned if isinstance(t, nn.Parameter))

    def group_of(self, expert: int) -> int:
        """The router's group of an expert."""
        return expert * self.groups // self.count

    def group_sizes(self, experts: Iterable[int]) -> list[int]:
        """How many of some experts are in each of the router's groups."""
        counts = Counter(map(self.group_of, experts))
        return [counts[group] for group in range(self.groups)]

    def objection(self, experts: Collection[int]) -> str:
        """Why a layer of these experts cannot be written; empty if it can."""
        least, left = max(self.top_k, _FEWEST), len(experts)
        if left < least:
            return f"layer {self.layer} would have {left} experts, its router needs at least {least}"
        sizes = self.group_sizes(experts)
        if len(set(sizes)) > 1:
            return f"the {self.groups} router groups of layer {self.layer} would differ in size: {sizes}"
        if self.groups > 1 and (sizes[0] < _FEWEST or sizes[0] * self.chosen_groups < self.top_k):
            least = max(_FEWEST, -(-self.top_k // self.chosen_groups))
            return (
                f"a router group of layer {self.layer} would have {sizes[0]} experts, "
                f"its router needs at least {least}"
            )
        return ""

    def counters(self, modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
        """Attributes that count the experts, of some modules of the mixture."""
        for module in modules:
            names = (*_COUNTERS, "out_features") if self._has_rows(module) else _COUNTERS
            for name in names:
                if (_count(vars(module).get(name)) or 0) >= self.count:
                    yield module, name

    def _has_rows(self, module: nn.Module) -> bool:
        return any(table.owner(self.module)[0] is module for table in self.routing)


def find_mixtures(decoder: Decoder) -> list[Mixture | None]:
    """The mixture of each layer; None for a layer without.

    Raises:
        UnsupportedModelError: if the model has none, or experts that cannot be told apart or counted.
    """
    name = type(decoder.model).__name__
    places = [_experts_of(block) for block in decoder.blocks]
    if not any(places):
        raise UnsupportedModelError(f"a {name} has no experts; use block")
    if is_quantized(decoder.model):
        raise UnsupportedModelError("the experts of a quantized model cannot be players; use block")
    count = expert_count(decoder.config, name)
    found = []
    for layer, paths in enumerate(places):
        if len(paths) > 1:
            raise _unknown(name, f"layer {layer} has several kinds: {', '.join(paths)}")
        found.append(_mixture(decoder, layer, paths[0], count) if paths else None)
    return found


def expert_count(config: PretrainedConfig, name: str) -> int:
    """The one number of experts in a config.

    Raises:
        UnsupportedModelError: if it is not one number.
    """
    given = {
        field: value
        for holder in count_holders(config)
        for field in COUNT_FIELDS
        if (value := vars(holder).get(field)) is not None
    }
    counts = {_count(value) for value in given.values()}
    if len(counts) != 1 or (count := counts.pop()) is None:
        raise UnsupportedModelError(f"the config of a {name} has no single number of experts: {given}")
    return count


def count_holders(config: PretrainedConfig) -> list[PretrainedConfig]:
    """A config and the configs in it."""
    return [config, *(value for value in vars(config).values() if isinstance(value, PretrainedConfig))]


def _count(value: object) -> int | None:
    """A value that is a number, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _experts_of(block: nn.Module) -> list[str]:
    """The paths of the modules called ``experts`` in a layer."""
    return [name for name, _ in block.named_modules() if name.rpartition(".")[2] == "experts"]


def _mixture(decoder: Decoder, layer: int, path: str, count: int) -> Mixture:
    name = type(decoder.model).__name__
    block = decoder.blocks[layer]
    module, experts = block.get_submodule(path.rpartition(".")[0]), block.get_submodule(path)
    children = dict(module.named_children())
    routers = [each for each in _ROUTERS if each in children]
    if len(routers) != 1:
        raise _unknown(name, f"{path} has no router beside it")
    router = children[routers[0]]
    return Mixture(
        layer=layer,
        path=f"{decoder.stack}.{layer}.{path}",
        module=module,
        router=router,
        experts=experts,
        count=count,
        top_k=_top_k(name, module, router, decoder.config),
        weights=tuple(_weight_tables(name, experts, count)),
        routing=tuple(_routing_tables(name, module, routers[0], count)),
        ranks_groups=getattr(router, "num_group", None) is not None,
        groups=getattr(router, "num_group", None) or 1,
        chosen_groups=getattr(router, "topk_group", None) or 1,
    )


def _top_k(name: str, module: nn.Module, router: nn.Module, config: PretrainedConfig) -> int:
    held = [vars(each).get(_TOP_K) for each in (router, module)]
    held += [getattr(config, field, None) for field in TOP_K_FIELDS]
    found = [count for value in held if (count := _count(value)) is not None]
    if not found:
        raise _unknown(name, "nothing says how many of them a token is routed to")
    return found[0]


def _weight_tables(name: str, experts: nn.Module, count: int) -> Iterator[Table]:
    """The slices of packed weights: the first dimension is the expert, alone or with its rows."""
    tables = [_weight_table(path, tensor, count) for path, tensor in experts.named_parameters()]
    found = [table for table in tables if table is not None]
    if len(found) < _MATRIX or len(found) < len(tables):
        raise _unknown(name, f"their weights are not packed by expert in {type(experts).__name__}")
    yield from found


def _weight_table(path: str, tensor: Tensor, count: int) -> Table | None:
    size = len(tensor)
    if tensor.dim() == _PACKED and size >= count:
        return Table(f"experts.{path}")
    if tensor.dim() == _MATRIX and size % count == 0:
        return Table(f"experts.{path}", width=size // count)
    return None


def _routing_tables(name: str, module: nn.Module, router: str, count: int) -> Iterator[Table]:
    """The rows of the router's last matrix, and the numbers beside it and in the mixture."""
    counters = vars(module.get_submodule(router))
    rows = max([count, *(_count(counters.get(counter)) or 0 for counter in _COUNTERS)])
    matrices = 0
    for path, tensor in (*_named(module, "", recurse=False), *_named(module, router, recurse=True)):
        if not tensor.is_floating_point():
            raise _unknown(name, f"the router looks up its choice in a table, {path}")
        shape = tuple(tensor.shape)
        if shape in {(count,), (rows,)}:
            yield Table(path)
        elif shape == (1, count):
            yield Table(path, dim=1)
        elif len(shape) == _MATRIX and shape[0] == rows:
            matrices += 1
            yield Table(path)
    if matrices != 1:
        raise _unknown(name, f"{matrices} matrices of the router have {rows} rows")


def _named(module: nn.Module, path: str, *, recurse: bool) -> Iterator[tuple[str, Tensor]]:
    inner: Any = module.get_submodule(path)
    prefix = f"{path}." if path else ""
    for kind in (inner.named_parameters, inner.named_buffers):
        for name, tensor in kind(recurse=recurse):
            yield f"{prefix}{name}", tensor


def _unknown(name: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"the experts of a {name} are laid out in an unknown way: {why}; use block")


def rows_objection(model: nn.Module, dtype: torch.dtype) -> str:
    """Why torch's grouped products cannot multiply packed experts of a number format; empty if they can."""
    size, called = torch.empty((), dtype=dtype).element_size(), str(dtype).removeprefix("torch.")
    for name, weight in model.named_parameters():
        if weight.dim() == _PACKED and "experts" in name.split("."):
            for row in weight.shape[1:]:
                if row * size % _GROUPED_BYTES:
                    return f"torch cannot multiply {name}, with rows of {row} numbers, in {called}"
    return ""
