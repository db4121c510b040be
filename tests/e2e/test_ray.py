"""Coalitions measured by real Ray actors: the values of a local run, whoever is killed."""

import contextlib
import gc
import json
import logging
import os
import signal
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from forks import forked

from shapcut.api import load_game
from shapcut.cli import app
from shapcut.cli.main import run
from shapcut.game.coalitions import all_coalitions
from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import build_host
from shapcut.support.errors import InputError
from shapcut.valuation.executor import DistributedWindows
from shapcut.valuation.model_game import ModelGame
from shapcut_plugins.executors.ray import RayExecutor
from shapcut_plugins.executors.ray_cluster import import_ray

pytestmark = [pytest.mark.ray, pytest.mark.long]

ROWS = all_coalitions(6)


class Killer:
    """Writes down the process's children and kills it after 12 evaluations."""

    def __init__(self, children: Path) -> None:
        self.children = children

    @hookimpl
    def shapcut_coalitions_evaluated(self, total: int) -> None:
        if total >= 12:
            children = psutil.Process().children(recursive=True)
            self.children.write_text(json.dumps([[p.pid, p.create_time()] for p in children]))
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(children: Path, command: list[str]) -> None:
    app.build_host = partial(build_host, extra=[Killer(children)])
    run(command)


def still_there(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def evaluations(directory: Path) -> list[Any]:
    with sqlite3.connect(directory / "evaluations.sqlite") as store:
        return store.execute("SELECT game, coalition, value FROM evaluations ORDER BY 1, 2").fetchall()


@pytest.fixture(scope="module")
def command(tiny_llama_directory: Path) -> list[str]:
    sizes = ["--samples", "3", "--sequence-length", "24", "--finalist-samples", "4", "--budget", "30"]
    return ["score", str(tiny_llama_directory), *sizes, "--json"]


@pytest.fixture(scope="module")
def killed(command: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was killed, its children in a file beside it."""
    place = tmp_path_factory.mktemp("killed")
    elsewhere = ["--run", str(place / "run"), "--executor", "ray:workers=2,threads=1"]
    done = forked(partial(run_and_die, place / "children.json", [*command, *elsewhere]), OMP_NUM_THREADS="1")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == ""
    return place / "run"


def test_a_killed_run_is_resumed(killed: Path, command: Sequence[str], tmp_path: Path) -> None:
    found = evaluations(killed)
    assert len(found) >= 12
    assert run([*command, "--run", str(killed), "--executor", "local"]) == 0
    assert run([*command, "--run", str(tmp_path / "undisturbed")]) == 0
    assert evaluations(killed) == evaluations(tmp_path / "undisturbed")
    phase = json.loads((killed / "manifest.json").read_text())["phases"]["estimate"]
    assert sum(phase["evaluations_measured"].values()) == len(evaluations(killed)) - len(found)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster that this process is in already, which executors then use."""
    ray = import_ray()
    ray.init(
        address="local",
        num_cpus=3,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()
    with warnings.catch_warnings():  # Ray ends its processes without waiting for them
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def games(tiny_llama_directory: Path) -> Sequence[ModelGame]:
    game = load_game(str(tiny_llama_directory), samples=4, sequence_length=24)
    return [game, game.on(game.input_ids[:2])]


@pytest.fixture(scope="module")
def distributed(cluster: None, games: Sequence[ModelGame]) -> Iterator[Sequence[DistributedWindows]]:
    executor = RayExecutor(workers=2, threads=1)
    executor.check()
    with executor.distribute(games) as made:
        yield made


def measurers() -> dict[int, psutil.Process]:
    """The actors' processes. One that has ended since its parent listed it has no command line."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie too
            if "ray::Measurer" in "".join(process.cmdline()):
                found[process.pid] = process
    return found


def test_values_are_those_of_a_local_run(
    games: Sequence[ModelGame], distributed: Sequence[DistributedWindows]
) -> None:
    for here, there in zip(games, distributed, strict=True):
        np.testing.assert_array_equal(there.values(ROWS), here.values(ROWS))
        part = here.tokens // 2
        np.testing.assert_array_equal(there.narrowed(part).values(ROWS), here.narrowed(part).values(ROWS))


def test_a_killed_worker_is_replaced(
    games: Sequence[ModelGame], distributed: Sequence[DistributedWindows], capfd: pytest.CaptureFixture[str]
) -> None:
    means = np.full((len(ROWS), games[0].windows), np.nan)
    killed = None
    for part in distributed[0].window_parts(ROWS, 0, games[0].windows):
        assert np.isnan(means[part.rows, part.windows]).all()
        means[part.rows, part.windows] = part.means
        if killed is None:
            killed = next(iter(measurers()))
            os.kill(killed, signal.SIGKILL)
    np.testing.assert_array_equal(games[0].combined(means), games[0].measurements(ROWS))
    assert killed not in measurers()
    assert capfd.readouterr() == ("", "")


def test_an_error_in_a_worker_is_the_runs_error(
    cluster: None, games: Sequence[ModelGame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(games[0], "fingerprint", lambda: {"model": "another"})
    message = r"differs in adapter: .*, not None; all workers need the same"
    with (
        RayExecutor(workers=1, threads=1).distribute(games[:1]) as (game,),
        pytest.raises(InputError, match=message),
    ):
        game.values(ROWS[:1])


def test_more_workers_than_the_cluster_has_processors(cluster: None, games: Sequence[ModelGame]) -> None:
    with (
        RayExecutor(workers=4, threads=2).distribute(games) as (game, _),
        pytest.raises(InputError, match="4 workers need 8 CPUs in all, the cluster has 3"),
    ):
        game.values(ROWS[:1])


def test_the_clusters_gpus_decide_how_many_workers_there_are(
    cluster: None, games: Sequence[ModelGame], distributed: Sequence[DistributedWindows]
) -> None:
    """The cluster is told of two GPUs; its workers do not use them, because the games are on a CPU."""
    distributed[0].values(ROWS[:2])
    before = set(measurers())
    assert len(before) == 2
    with RayExecutor(gpus=2, threads=1).distribute(games) as (game, _):
        np.testing.assert_array_equal(game.values(ROWS[:6]), games[0].values(ROWS[:6]))
        assert len(set(measurers()) - before) == 1


def test_more_workers_than_the_cluster_has_gpus(cluster: None, games: Sequence[ModelGame]) -> None:
    with (
        RayExecutor(workers=1, threads=1, gpus=3).distribute(games) as (game, _),
        pytest.raises(InputError, match="1 workers need 3 GPUs in all, the cluster has 2"),
    ):
        game.values(ROWS[:1])


def test_a_killed_run_leaves_no_cluster(killed: Path) -> None:
    """The last test here: the cluster ends while the others run."""
    children = json.loads(killed.with_name("children.json").read_text())
    assert len(children) > 3
    alive = [process for pid, created in children if (process := still_there(pid, created))]
    _, alive = psutil.wait_procs(alive, timeout=120)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
