"""Where coalitions are measured: the contract, specs of games, a run with values from elsewhere."""

import socket
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shapcut.api import load_game
from shapcut.game.coalitions import all_coalitions
from shapcut.game.game import FunctionGame
from shapcut.game.store import EvaluationStore
from shapcut.game.stored_game import StoredGame
from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import build_host
from shapcut.host.worker import build_game
from shapcut.pipeline.prune import prune, score
from shapcut.recipe.recipe import make_recipe
from shapcut.support.errors import InputError
from shapcut.valuation.executor import DistributedGame, Executor, LocalExecutor
from shapcut.valuation.game_spec import GameOrigin
from shapcut.valuation.model_game import ModelGame
from shapcut_plugins.executors.ray import RayExecutor, default_workers
from shapcut_plugins.executors.ray_cluster import require_answer

ROWS = all_coalitions(6)


@pytest.fixture
def game(tiny_llama_directory: Path) -> ModelGame:
    return load_game(str(tiny_llama_directory), samples=3, sequence_length=24)


class Elsewhere(Executor):
    """Copies of the games in this process, which tell their values backwards, two at a time."""

    name = "elsewhere"

    def __init__(self, built: list[ModelGame]) -> None:
        self.built = built
        self.is_open = False

    @contextmanager
    def distribute(self, games: Any) -> Any:
        specs = [game.spec() for game in games]
        first = build_game(specs[0])
        self.built += [first, *(build_game(spec, first) for spec in specs[1:])]
        self.is_open = True
        yield [
            DistributedGame(game, self._teller(copy)) for game, copy in zip(games, self.built, strict=True)
        ]
        self.is_open = False

    def _teller(self, copy: ModelGame) -> Callable[..., Any]:
        def tell(coalitions: Any) -> Any:
            assert self.is_open
            for start in range(0, len(coalitions), 2):
                rows = np.arange(len(coalitions))[::-1][start : start + 2]
                yield rows, copy.values(coalitions[rows])

        return tell


def test_a_spec_builds_an_equal_game(
    game: ModelGame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = game.spec()
    monkeypatch.chdir(tmp_path)
    copy = build_game(spec)
    assert copy.model is not game.model
    np.testing.assert_array_equal(copy.values(ROWS), game.values(ROWS))
    assert copy.spec().fingerprint == spec.fingerprint
    assert spec.weight_bytes == sum(p.numel() * p.element_size() for p in game.model.parameters())


@pytest.mark.parametrize("sampled", [False, True])
def test_a_relative_shares_its_model(game: ModelGame, sampled: bool) -> None:
    other = game.on(game.input_ids[:2], sampled=sampled)
    built = build_game(game.spec())
    relative = build_game(other.spec(), built)
    assert relative.model is built.model
    np.testing.assert_array_equal(relative.values(ROWS), other.values(ROWS))
    assert (relative.values(ROWS[1:]) != game.values(ROWS[1:])).all()


def test_another_model_in_the_same_place_is_noticed(game: ModelGame) -> None:
    spec = replace(game.spec(), fingerprint={**game.fingerprint(), "model": "abc"})
    with pytest.raises(InputError, match=r"copy of .*tiny-llama differs in model: \w+, not abc"):
        build_game(spec)


def test_a_relative_path_is_found_from_elsewhere(tiny_llama_directory: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tiny_llama_directory.parent)
    located = GameOrigin(tiny_llama_directory.name, "kl").located()
    assert located == GameOrigin(str(tiny_llama_directory.resolve()), "kl")
    assert GameOrigin("demo:smollm2-135m", "kl").located().source == "demo:smollm2-135m"


def test_what_exists_here_only_cannot_be_built_elsewhere(game: ModelGame, tiny_llama_directory: Path) -> None:
    handed_over = ModelGame(game.model, game.adapter, game.input_ids)
    with pytest.raises(InputError, match=r"the model was passed in memory.*'local'"):
        handed_over.spec()
    with_function = load_game(str(tiny_llama_directory), utility=lambda model: 1.0)
    with pytest.raises(InputError, match=r"the utility .*lambda.* is a function"):
        with_function.spec()
    with LocalExecutor().distribute([handed_over]) as games:
        assert games == [handed_over]


def test_a_distributed_game_is_the_game_but_for_its_values(game: ModelGame) -> None:
    distributed = DistributedGame(
        game, lambda rows: iter([(np.array([1]), np.array([5.0])), (np.array([0]), np.array([7.0]))])
    )
    assert distributed.values(ROWS[:2]).tolist() == [7.0, 5.0]
    assert distributed.players == game.players
    assert distributed.permits([0]) == game.permits([0])
    assert "evaluator" not in vars(game)


def test_parts_are_stored_as_they_arrive(tmp_path: Path) -> None:
    store, seen = EvaluationStore(tmp_path / "s.sqlite"), []

    def parts(rows: Any) -> Any:
        for number in reversed(range(len(rows))):
            seen.append(store.count("g"))
            yield np.array([number]), rows[[number]].sum(axis=1).astype(float)

    distributed = DistributedGame(FunctionGame(6, lambda rows: rows.sum(axis=1)), parts)
    stored = StoredGame(distributed, store, name="g", fingerprint={})
    assert stored.values(ROWS[[7, 0, 7, 5]]).tolist() == [3.0, 0.0, 3.0, 2.0]
    assert seen == [0, 1, 2]
    assert stored.measured == 3
    store.close()


def test_a_run_elsewhere_is_a_run_here(tiny_llama_directory: Path, tmp_path: Path) -> None:
    class Plugin:
        def __init__(self) -> None:
            self.built: list[ModelGame] = []

        @hookimpl
        def shapcut_register_executors(self, register: Any) -> None:
            register("elsewhere", lambda: Elsewhere(self.built))

    plugin = Plugin()
    host = build_host(extra=[plugin])
    options: dict[str, Any] = {"model": str(tiny_llama_directory), "remove": 2, "samples": 3, "budget": 30}
    options |= {"sequence_length": 24, "finalist_samples": 4, "held_out_samples": 4}
    plans = []
    for executor in ("local", "elsewhere"):
        out = tmp_path / executor
        plans.append(prune(make_recipe({**options, "executor": executor}), out, host).plan)
    assert plans[0] == plans[1]
    # Calibration, and four parts of the finals; the last two, which decide, read the whole vocabulary.
    assert [game.sampled for game in plugin.built] == [True, True, True, False, False]
    assert all(game.work.coalitions > 0 for game in plugin.built)
    manifest = (tmp_path / "elsewhere.run" / "manifest.json").read_text()
    assert '"executor": "elsewhere"' in manifest
    again = score(make_recipe(options), tmp_path / "elsewhere.run", host)
    assert again.evaluations <= 30


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rey", r"unknown executor 'rey': did you mean 'ray'\?"),
        ("ray:workers=0", r"executor 'ray': option workers='0'"),
        ("ray:threads=0", r"option threads='0'"),
        ("ray:gpus=-1", r"option gpus='-1'"),
        ("ray:worker=2", r"has no option 'worker': did you mean 'workers'\?"),
        ("local:workers=2", r"executor 'local' has no option 'workers'"),
    ],
)
def test_what_is_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_host().executors.create(spec)


def test_ray_that_is_not_installed_is_one_line_that_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = make_recipe({"model": "no/such-model", "executor": "ray"})
    with pytest.raises(InputError, match=r"needs the package ray.*pip install 'shapcut\[ray\]'"):
        score(recipe, Path("nowhere"), build_host())
    assert not Path("nowhere").exists()


def test_a_cluster_that_does_not_answer(unused_port: int) -> None:
    with pytest.raises(InputError, match=f"no cluster answers at 127.0.0.1:{unused_port}"):
        require_answer(f"127.0.0.1:{unused_port}")
    require_answer("auto")


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_cluster_of_the_environment_is_used_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert RayExecutor().address == "local"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert RayExecutor().address == "head:6379"
    assert RayExecutor(address="local").address == "local"


def test_memory_limits_the_number_of_workers(game: ModelGame, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr("shapcut_plugins.executors.ray.psutil.virtual_memory", Memory)
    specs = [replace(game.spec(), weight_bytes=size) for size in (100, 170)]
    assert default_workers(8, []) == 8
    assert default_workers(8, specs[:1]) == 5
    assert default_workers(8, specs) == 2
    assert default_workers(1, specs) == 1
    assert default_workers(8, [replace(specs[0], weight_bytes=9000)]) == 1
