"""Published ways to mend a cut: the weights do what the formula says, and transformers loads them."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from shapcut.game.plan import RemovalPlan
from shapcut.host.host import build_host
from shapcut.steps.step import PostProcessor, StepContext
from shapcut.support.errors import InputError
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.transformers.adapter import HFDecoderAdapter
from shapcut_plugins.mend_baselines.hadamard import rotation

ADAPTER = HFDecoderAdapter()
REMOVED = (1, 2, 4)
"""Two cuts, the first of two blocks."""

Hook = Callable[[Tensor, Tensor], Tensor]
"""From a module's input and output to another output."""


def windows(length: int) -> Tensor:
    return torch.randint(3, 96, (40, length), generator=torch.Generator().manual_seed(1))


def exact_norms(model: nn.Module) -> None:
    """Let norms forget the scale of what they read, but for rounding."""
    for module in model.modules():
        for name in ("eps", "variance_epsilon"):
            if hasattr(module, name):
                setattr(module, name, 1e-20)


def cut(name: str, removed: tuple[int, ...] = REMOVED) -> tuple[Any, Any, RemovalPlan]:
    """The original, the pruned model, the plan."""
    original = ADAPTER.canonicalise(ADAPTER.examples()[name](0)[0]).requires_grad_(requires_grad=False)
    exact_norms(original)
    plan = RemovalPlan.removing(removed, len(ADAPTER.players(original)))
    return original, ADAPTER.remove(copy.deepcopy(original), plan.removed), plan


def mended(spec: str, pruned: nn.Module, original: nn.Module, plan: RemovalPlan, place: Path) -> Any:
    """The pruned model after a step, and the step's report."""
    step: PostProcessor = build_host().postprocessors.create(spec)
    step.check(original, ADAPTER)
    context = StepContext(
        adapter=ADAPTER,
        plan=plan,
        calibration=windows(12)[:4],
        tokenizer=None,
        directory=place,
        seed=0,
        original=lambda: original,
        windows=windows,
    )
    model = step.run(copy.deepcopy(pruned), context)
    return model, json.loads((place / f"{spec.partition(':')[0]}.json").read_text())["cuts"]


def streams(model: nn.Module, watched: str | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """The stream before each block and after the last; inputs and outputs of one module."""
    stack = ADAPTER.stack(model)
    assert stack is not None
    calls: list[Tensor] = []
    with hooked(
        model, {watched: lambda given, output: calls.extend((given, output)) or output} if watched else {}
    ):
        state = stack.prelude(windows(12))
        found = [stack.stream(state)]
        for index in range(len(ADAPTER.players(model))):
            state = stack.step(index, state)
            found.append(stack.stream(state))
    return found, [call.reshape(40 * 12, -1).double() for call in calls]


@contextmanager
def hooked(model: nn.Module, hooks: dict[str, Hook]) -> Iterator[None]:
    """Change what modules return while the context is open."""

    def changed(hook: Hook) -> Any:
        def run(_module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return hook(args[0], output)
            return (hook(args[0], output[0]), *output[1:])

        return run

    with ExitStack() as handles:
        for name, hook in hooks.items():
            handles.callback(model.get_submodule(name).register_forward_hook(changed(hook)).remove)
        yield


def last_projection(model: nn.Module, block: int) -> str:
    return ADAPTER.output_projections(model, ADAPTER.players(model)[block])[-1].module


def block_name(model: nn.Module, block: int) -> str:
    return ADAPTER.players(model)[block].name


def ratios(before: Tensor, after: Tensor) -> Tensor:
    means = [each.double().abs().mean(dim=1) for each in (before, after)]
    return (means[1] / means[0]).mean(dim=0)


def require_same(model: nn.Module, expected: Tensor, plain: nn.Module, place: Path, share: float) -> None:
    """The model gives these logits, as reloaded by transformers too; the plain cut gives others."""
    ids = windows(12)[:8]
    scale = float(expected.abs().max())
    found = ADAPTER.logits(model, ids)
    assert float((found - expected).abs().max()) < share * scale
    assert float((ADAPTER.logits(plain, ids) - expected).abs().max()) > 10 * share * scale
    with quiet_libraries():
        ADAPTER.save(model, place / "saved")
        loaded = AutoModelForCausalLM.from_pretrained(place / "saved", dtype=torch.float32).eval()
    exact_norms(loaded)
    torch.testing.assert_close(ADAPTER.logits(loaded, ids), found, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "mamba", "granite"])
def test_replace_me_is_the_least_squares_map_of_what_the_block_before_adds(name: str, tmp_path: Path) -> None:
    original, pruned, plan = cut(name)
    model, report = mended("replace-me", pruned, original, plan, tmp_path)
    factor = ADAPTER.output_projections(original, ADAPTER.players(original)[0])[-1].factor
    hooks: dict[str, Hook] = {}
    for block, entry, leaving in ((0, 1, 3), (1, 4, 5)):
        between, (_, added) = streams(original, last_projection(original, entry - 1))
        added = factor * added
        before, after = (between[place].flatten(0, 1).double() for place in (entry, leaving))
        matrix = torch.linalg.lstsq(added, after - before + added).solution.float()
        hooks[last_projection(pruned, block)] = lambda _, output, matrix=matrix: output @ matrix
    with hooked(pruned, hooks):
        expected = ADAPTER.logits(pruned, windows(12)[:8])
    require_same(model, expected, pruned, tmp_path, 1e-3)
    assert [each["removed"] for each in report] == [[1, 2], [4]]
    assert all(0 < each["error"] < 1 for each in report)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "gpt2", "mamba", "granite"])
def test_prune_and_comp_scales_the_stream_at_each_cut(name: str, tmp_path: Path) -> None:
    original, pruned, plan = cut(name)
    model, report = mended("prune-and-comp", pruned, original, plan, tmp_path)
    between, _ = streams(original)
    factors = [float(ratios(between[entry], between[leaving]).mean()) for entry, leaving in ((1, 3), (4, 5))]
    assert [each["factor"] for each in report] == pytest.approx(factors, rel=1e-4)
    hooks: dict[str, Hook] = {
        block_name(pruned, block): lambda _, output, factor=factor: factor * output
        for block, factor in enumerate(factors)
    }
    with hooked(pruned, hooks):
        expected = ADAPTER.logits(pruned, windows(12)[:8])
    require_same(model, expected, pruned, tmp_path, 1e-3)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "mamba", "granite"])
def test_linear_patch_is_a_scale_and_what_the_block_before_can_add_of_the_rest(
    name: str, tmp_path: Path
) -> None:
    original, pruned, plan = cut(name)
    model, report = mended("linear-patch:ridge=0", pruned, original, plan, tmp_path)
    hooks: dict[str, Hook] = {}
    for block, entry, leaving in ((0, 1, 3), (1, 4, 5)):
        module = last_projection(original, entry - 1)
        between, (given, _) = streams(original, module)
        turn = rotation(between[0].shape[-1]).float()
        scales = ratios(between[entry] @ turn, between[leaving] @ turn).float()
        stream = between[entry].flatten(0, 1)
        patched = stream @ turn @ torch.diag(scales) @ turn.t()
        norms = stream.double().norm(dim=1, keepdim=True)
        factor = float((patched * stream / norms**2).sum(dim=1).mean())
        if original.get_submodule(module).bias is not None:
            given = torch.cat([given, torch.ones_like(given[:, :1])], dim=1)
        rest = (patched.double() / factor - stream) / norms
        fitted = torch.linalg.lstsq(given / norms, rest, driver="gelsd").solution
        left = factor * (rest - given / norms @ fitted)
        share = 1 - left.square().sum() / ((patched.double() - stream) / norms).square().sum()
        assert report[block]["folded"] == pytest.approx(float(share), abs=1e-3)
        change = fitted.float()
        declared = ADAPTER.output_projections(original, ADAPTER.players(original)[0])[-1].factor

        def patched_output(
            given: Tensor, output: Tensor, change: Tensor = change, by: float = declared
        ) -> Tensor:
            if len(change) > given.shape[-1]:
                given = torch.cat([given, torch.ones_like(given[..., :1])], dim=-1)
            return output + given @ change / by

        hooks[last_projection(pruned, block)] = patched_output
        hooks[block_name(pruned, block)] = lambda _, output, factor=factor: factor * output
    with hooked(pruned, hooks):
        expected = ADAPTER.logits(pruned, windows(12)[:8])
    require_same(model, expected, pruned, tmp_path, 1e-3)


def test_linear_patch_keeps_the_scale_where_nothing_can_be_added(tmp_path: Path) -> None:
    original, pruned, plan = cut("gemma3_text")
    model, report = mended("linear-patch", pruned, original, plan, tmp_path)
    factors = [each["factor"] for each in report]
    assert [each["module"] for each in report] == [None, None]
    hooks: dict[str, Hook] = {
        block_name(pruned, block): lambda _, output, factor=factor: factor * output
        for block, factor in enumerate(factors)
    }
    with hooked(pruned, hooks):
        expected = ADAPTER.logits(pruned, windows(12)[:8])
    require_same(model, expected, pruned, tmp_path, 1e-3)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "gpt2", "mamba", "mixtral"])
def test_laco_adds_the_differences_of_the_removed_blocks(name: str, tmp_path: Path) -> None:
    original, pruned, plan = cut(name)
    model, report = mended("laco", pruned, original, plan, tmp_path)
    assert [each["merged"] for each in report] == [[1, 2], [4]]
    weights, expected = original.state_dict(), copy.deepcopy(pruned)
    blocks = [f"{block_name(original, place)}." for place in range(6)]
    merged = {
        path: weight
        for path, weight in pruned.state_dict().items()
        if not any(path.startswith(block) for block in blocks)
    }
    for place, parts in enumerate(((0, 1, 2), (3, 4), (5,))):
        first, *others = (
            {
                path.removeprefix(blocks[part]): weights[path]
                for path in weights
                if path.startswith(blocks[part])
            }
            for part in parts
        )
        for path, weight in first.items():
            change = sum(other[path] - weight for other in others) if weight.is_floating_point() else 0
            merged[blocks[place] + path] = weight + change
    expected.load_state_dict(merged)
    require_same(model, ADAPTER.logits(expected, windows(12)[:8]), pruned, tmp_path, 1e-4)


@pytest.mark.parametrize("spec", ["replace-me", "linear-patch", "prune-and-comp", "laco"])
def test_a_cut_at_the_beginning_or_the_end(spec: str, tmp_path: Path) -> None:
    original, pruned, plan = cut("llama", (0, 5))
    model, report = mended(spec, pruned, original, plan, tmp_path)
    assert [each["removed"] for each in report] == [[0], [5]]
    changed = {
        name.split(".")[2]
        for (name, one), other in zip(model.named_parameters(), pruned.parameters(), strict=True)
        if not torch.equal(one, other)
    }
    every = {"0", "1", "2", "3"}
    assert changed == {"replace-me": {"3"}, "laco": {"3"}}.get(spec, every)


def test_the_cosine_map_turns_the_stream_towards_the_original_s(tmp_path: Path) -> None:
    original, pruned, plan = cut("llama", (2, 3))
    model, _ = mended("replace-me:objective=cosine,epochs=200", pruned, original, plan, tmp_path)
    target = streams(original)[0][4]
    distances = [
        float(1 - nn.functional.cosine_similarity(streams(each)[0][2], target, dim=-1).mean())
        for each in (pruned, model)
    ]
    assert distances[1] < 0.97 * distances[0]


@pytest.mark.parametrize(
    ("spec", "name", "problem"),
    [
        ("replace-me", "gemma3_text", "no block of Gemma3ForCausalLM ends in a linear map"),
        ("prune-and-comp", "olmo2", "does not normalise what it reads"),
        ("prune-and-comp", "mixtral", "is not proportional to weights of its own"),
        ("linear-patch", "mixtral", "is not proportional to weights of its own"),
    ],
)
def test_a_family_that_a_method_does_not_work_on_is_refused(spec: str, name: str, problem: str) -> None:
    model = ADAPTER.canonicalise(ADAPTER.examples()[name](0)[0])
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=problem) as refused:
        build_host().postprocessors.create(spec).check(model, ADAPTER)
    assert str(refused.value).startswith(f"{spec}: ")
    assert "\n" not in str(refused.value)
    for path, weight in model.state_dict().items():
        assert torch.equal(weight, weights[path])


@pytest.mark.parametrize(
    "spec", ["replace-me:ridge=-1", "linear-patch:samples=0", "prune-and-comp:samples=0"]
)
def test_an_impossible_option_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="is needed"):
        build_host().postprocessors.create(spec)


@pytest.mark.parametrize("size", [1, 2, 12, 16, 20, 24, 28, 36, 40, 48, 60, 64, 144, 576, 640])
def test_the_rotation_is_a_hadamard_matrix_where_one_can_be_made(size: int) -> None:
    matrix = rotation(size)
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(size, dtype=torch.float64))
    assert torch.allclose(matrix.abs() * size**0.5, torch.ones_like(matrix))


@pytest.mark.parametrize("size", [3, 6, 9, 18, 50])
def test_the_rotation_is_orthogonal_elsewhere(size: int) -> None:
    matrix = rotation(size)
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(size, dtype=torch.float64))
