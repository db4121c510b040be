"""What a dry run says, and that it needs nothing but a config."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shapcut.cli.main import run
from shapcut.cli.tables import forecast_rows
from shapcut.host.host import Host, build_host, select_adapter
from shapcut.pipeline import dry_run, footprint
from shapcut.pipeline.dry_run import Forecast, forecast
from shapcut.pipeline.prune import prune
from shapcut.pipeline.shared_work import prefix_runs
from shapcut.pipeline.throughput import Throughput, block_throughput, product_throughput
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError
from shapcut.valuation import state_memory
from shapcut.valuation.state_memory import divide_memory, most_windows_per_step

WIDTH, INNER, LAYERS, VOCABULARY = 16, 24, 10, 50
BLOCK = 4 * WIDTH * WIDTH + 3 * WIDTH * INNER + 2 * WIDTH
WHOLE = LAYERS * BLOCK + 2 * VOCABULARY * WIDTH + WIDTH


@pytest.fixture(scope="module")
def host() -> Host:
    return build_host()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A directory with a config of ten blocks and nothing else."""
    directory = tmp_path / "model"
    directory.mkdir()
    content = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        dtype="bfloat16",
    ).to_dict()
    (directory / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def foresee(config: Path, host: Host, *, target: bool = True, **options: Any) -> Forecast:
    options = {"device": "cpu", "samples": 3, "sequence_length": 8, **options}
    return forecast(make_recipe({"model": str(config), **options}), host, target=target, throughput=100.0)


def test_counts_by_hand(config: Path, host: Host) -> None:
    found = foresee(config, host, ratio=0.3, budget=100)
    assert (found.players, found.removable, found.players_to_remove) == (10, 10, 3)
    assert found.parameters == WHOLE
    assert (found.coalitions, found.tokens_per_coalition, found.tokens) == (100, 24, 2400)
    assert found.operations == 2 * (7 * BLOCK + VOCABULARY * WIDTH) * 2400
    assert found.seconds == found.operations / 1e14
    memory = found.memory
    assert (memory.weights, memory.converted, memory.state) == (2 * WHOLE, 0, 24 * WIDTH * 2)
    assert (memory.outside_blocks, memory.largest_block) == (2 * (WHOLE - LAYERS * BLOCK), 2 * BLOCK)
    assert memory.coalitions_at_once == state_memory.MOST_COALITIONS_PER_CHUNK
    assert memory.budget == memory.state * (11 + 4 * 256)
    assert found.advice == "none needed: everything fits"


def test_a_copy_in_another_format_is_counted(config: Path, host: Host) -> None:
    found = foresee(config, host, ratio=0.3, dtype="float32")
    assert (found.dtype, found.memory.converted) == ("float32", 4 * WHOLE)
    assert found.memory.state == 24 * WIDTH * 4


def test_targets(config: Path, host: Host) -> None:
    several = foresee(config, host, remove=(2, 5))
    assert [cut.fewest for cut in several.cuts] == [2, 5]
    assert several.players_to_remove == 5
    assert foresee(config, host, parameters=WHOLE - 3 * BLOCK).players_to_remove == 3
    assert foresee(config, host, memory=2 * WHOLE - 2 * 2 * BLOCK).players_to_remove == 2
    faster = foresee(config, host, speedup=1.5)
    assert (faster.cuts, faster.players_to_remove) == ((), None)
    assert "unknown before the players' time is measured" in str(forecast_rows(faster))
    assert foresee(config, host, target=False).cuts == ()


def test_mending_is_listed_as_a_step(config: Path, host: Host) -> None:
    assert foresee(config, host, remove=2, mend=True).steps == ("compensate",)
    own = ("compensate:samples=9",)
    assert foresee(config, host, remove=2, mend=True, then=own).steps == own
    impossible = foresee(config, host, remove=2, mend=True, samples=1)
    assert impossible.steps == ()
    assert impossible.caveats == (
        "--mend: the cut is not compensated: that needs 2 windows of text, and --samples is 1",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no target"),
        ({"remove": 2, "mend": True, "mend_finalists": True, "samples": 1}, "--mend-finalists: the cut"),
        ({"remove": 10}, "of the model's 10 players 1 to 9 can be removed"),
        ({"remove": 2, "then": ["cmpensate"]}, "did you mean 'compensate'"),
        ({"remove": 2, "estimator": "paper:size=3"}, "did you mean 'sizes'"),
        ({"remove": 2, "calibration": "none.txt"}, "none.txt does not exist"),
        ({"remove": 2, "sequence_length": 9999}, "more than the 2048 tokens"),
        ({"parameters": 10**9}, "the model has"),
    ],
)
def test_what_a_run_would_refuse(config: Path, host: Host, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        foresee(config, host, **options)


def test_advice(config: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    found = foresee(config, host, remove=3, memory_budget=4096)
    memory, recipe = found.memory, make_recipe({"model": "m"})

    def advice(free: int, **options: Any) -> str:
        changed = make_recipe({"model": "m", **options}) if options else recipe
        return footprint.advice(changed, replace(memory, free=free), from_config=True)

    assert memory.needed == memory.weights + memory.budget  # type: ignore[operator]
    assert memory.offloaded < memory.needed
    assert advice(memory.needed) == "none needed: everything fits"
    assert "--offload disk needs" in advice(memory.needed - 1)
    assert "does not fit even with --offload disk" in advice(memory.offloaded - 1)
    assert "--offload disk as asked" in advice(0, offload="disk")


def test_division_of_memory() -> None:
    assert divide_memory(10, 1, 1, 4, 1000).chunk_size == (1000 - 50) // 40
    scarce = divide_memory(10, 1, 1, 4, 60)
    assert (scarce.keeps_trunk, scarce.chunk_size, scarce.remembered) == (False, 1, 1)
    assert divide_memory(10, 1, 1, 4, 0).chunk_size == 1


@pytest.mark.parametrize(
    ("windows", "gibibytes", "keeps_trunk"), [(16, 24, True), (128, 24, False), (128, 64, False)]
)
def test_hundreds_of_coalitions_fit_whatever_the_length(
    windows: int, gibibytes: int, keeps_trunk: bool
) -> None:
    state = 2048 * 4096 * 2  # a window of Llama-3-8B
    step = most_windows_per_step((windows, 2048))
    division = divide_memory(state, windows, step, 32, gibibytes * 2**30)
    assert (division.keeps_trunk, division.windows % step) == (keeps_trunk, 0)
    assert division.chunk_size >= 100
    assert 4 * division.chunk_size * division.windows * state <= gibibytes * 2**30


def test_nothing_is_left_behind_and_no_weights_are_made(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = psutil.Process().memory_info().rss
    huge = json.loads((config / "config.json").read_text())
    huge |= {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "head_dim": 128}
    (config / "config.json").write_text(json.dumps(huge))
    monkeypatch.chdir(tmp_path)
    command = ["prune", str(config), "--remove", "3", "--dry-run", "--json", "--throughput", "1"]
    assert run(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] > 8e9
    assert found["throughput"] == 1e12
    assert psutil.Process().memory_info().rss - before < 2e9
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "model"]


def test_a_throughput_that_is_none(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", str(config), "--dry-run", "--throughput", "0"]) == 2
    assert capsys.readouterr().err.startswith("shapcut: --throughput 0.0 is not a positive number")


def test_the_time_scales_with_the_measured_throughput(
    config: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe({"model": str(config), "device": "cpu", "remove": 3})
    found = []
    for operations in (1e6, 2e6):
        measured = Throughput(operations, "measured here")
        monkeypatch.setattr(dry_run, "product_throughput", lambda *_, measured=measured: measured)
        found.append(forecast(recipe, host, target=True))
    assert found[0].seconds == 2 * found[1].seconds == found[0].operations / 1e6
    rows = dict(map(tuple, forecast_rows(found[0])))
    assert rows["time"].endswith("at 1e-06 TFLOP/s in bfloat16, measured here")


@pytest.mark.parametrize("with_weights", [True, False])
def test_the_throughput_is_that_of_the_blocks_if_the_weights_are_here(
    tiny_llama_directory: Path, tmp_path: Path, host: Host, *, with_weights: bool
) -> None:
    model = tiny_llama_directory
    if not with_weights:
        model = tmp_path / "config"
        model.mkdir()
        shutil.copy(tiny_llama_directory / "config.json", model)
    recipe = make_recipe({"model": str(model), "device": "cpu", "remove": 2, "sequence_length": 32})
    found = forecast(recipe, host, target=True)
    assert found.throughput > 0
    ran = "of its blocks on 16 x 32 tokens" if with_weights else "on matrix products of 256 x 32 by 32 x 32"
    assert ran in found.throughput_source


def ticking(seconds: float = 0.25) -> Callable[[], float]:
    """A clock that is later by as much each time it is read."""
    return itertools.count(0.0, seconds).__next__


def test_a_throughput_counts_what_was_computed(host: Host, tiny_llama_model: LlamaForCausalLM) -> None:
    device = torch.device("cpu")
    products = product_throughput(16, 8, torch.float32, device, ticking(1 / 16))
    assert products.operations == 15 * 2 * 8 * 16 * 16 / (17 / 16)
    slow = product_throughput(16, 8, torch.float32, device, ticking())
    assert slow.operations == 3 * 2 * 1 * 16 * 16 / 1.25
    assert slow.source == "measured on matrix products of 1 x 16 by 16 x 16"
    adapter = select_adapter(host, tiny_llama_model)
    stack, players = adapter.stack(tiny_llama_model), adapter.players(tiny_llama_model)
    assert stack is not None
    blocks = block_throughput(stack, players, torch.ones(2, 8, dtype=torch.int64), ticking())
    assert blocks.operations == sum(2 * player.parameters * 16 for player in players[:3]) / 1.25
    assert blocks.source == "measured on 3 runs of its blocks on 2 x 8 tokens"


def test_a_time_too_short_to_tell(config: Path, host: Host) -> None:
    rows = dict(map(tuple, forecast_rows(foresee(config, host, remove=3))))
    assert rows["time"].startswith("less than a second for all coalitions at 100 TFLOP/s")
    assert "as given by --throughput" in rows["time"]


def test_a_hub_id_of_which_only_the_config_is_cached(
    config: Path, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "hub"
    repository = cache / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "config.json").write_bytes((config / "config.json").read_bytes())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.file_download, "HF_HUB_CACHE", str(cache), raising=False)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    assert foresee(Path("someone/tiny"), host, remove=3).players == 10
    with pytest.raises(InputError, match="no config of that name is cached; nothing is downloaded here"):
        foresee(Path("someone/other"), host, remove=3)


def test_a_demo_model_that_was_never_fetched(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHAPCUT_CACHE", str(tmp_path))
    recipe = make_recipe({"model": "demo:smollm2-135m", "remove": 3})
    with pytest.raises(InputError, match=r"is not in .* yet, and nothing is downloaded here"):
        forecast(recipe, host, target=True)


def test_rows_for_people(config: Path, host: Host) -> None:
    rows = dict(map(tuple, forecast_rows(foresee(config, host, remove=(2, 5), then=["compensate"]))))
    assert rows["to remove"] == "2 players: 2; 5 players: 5"
    assert "TFLOP/s" in rows["time"]
    assert rows["post-pruning steps"] == "compensate"
    assert torch.get_default_device().type == "cpu"


def test_caveats_of_steps_are_rows(config: Path, host: Host) -> None:
    found = forecast_rows(foresee(config, host, remove=2, then=["gptq:bits=2"]))
    assert [row[1] for row in found if row[0] == "caveat"] == [
        "--then gptq:bits=2: vLLM 0.32 does not load GPTQ with bits=2; use 4 or 8"
    ]


def test_shared_prefixes_are_run_once() -> None:
    rows = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]], dtype=np.bool_)
    # player 0 for three rows at once; player 1 after {0} and after {}; player 2 after {0,1}, {1}, {0}
    assert prefix_runs(rows) == 1 + 2 + 3
    assert prefix_runs(np.ones((5, 4), dtype=np.bool_)) == 4
    assert prefix_runs(np.zeros((5, 4), dtype=np.bool_)) == 0


def test_the_least_work_is_what_the_estimator_does(
    tiny_llama_directory: Path, tmp_path: Path, host: Host
) -> None:
    options = {"model": str(tiny_llama_directory), "device": "cpu", "remove": 2, "samples": 8}
    options |= {"sequence_length": 16, "budget": 24, "finalist_samples": 0, "held_out_samples": 2}
    recipe = make_recipe(options)
    found = forecast(recipe, host, target=True, throughput=1e-6)
    assert found.least is not None
    assert 0 < found.least_seconds < found.seconds
    prune(recipe, tmp_path / "out", host, run_directory=tmp_path / "run")
    phase = json.loads((tmp_path / "run" / "manifest.json").read_text())["phases"]["estimate"]
    assert found.least.block_runs == pytest.approx(phase["block_runs"], rel=0.5)
    assert found.least.block_runs < 24 * 4 / 2
    rows = dict(map(tuple, forecast_rows(found)))
    assert "for the estimator, whose coalitions share prefixes, to " in rows["time"]


def test_another_estimator_has_no_least_work(config: Path, host: Host) -> None:
    found = foresee(config, host, remove=3, estimator="permutation")
    assert (found.least, found.least_operations) == (None, found.operations)
    assert "at most, if the whole budget is spent" in dict(map(tuple, forecast_rows(found)))["time"]
