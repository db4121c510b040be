"""How many workers a cluster takes, and the memory that each of them shares."""

from types import SimpleNamespace
from typing import Any

import pytest

from shapcut_plugins.executors import ray_cluster
from shapcut_plugins.executors.machine_share import Share, divided, workers_of_gpu
from shapcut_plugins.executors.ray_cluster import RayCluster

GIB = 2**30
HEAD = {"CPU": 16.0, "memory": 100.0 * GIB}
ONE_GPU = {"CPU": 8.0, "GPU": 1.0, "memory": 50.0 * GIB}
FOUR_GPUS = {"CPU": 32.0, "GPU": 4.0, "memory": 200.0 * GIB}


@pytest.mark.parametrize(
    ("machines", "options", "expected"),
    [
        ([HEAD, FOUR_GPUS, ONE_GPU], {"gpus": 1}, Share(5, 8, 1)),
        ([HEAD, FOUR_GPUS, ONE_GPU], {"gpus": 2}, Share(2, 16, 1)),
        ([FOUR_GPUS, ONE_GPU], {"gpus": 0.5}, Share(10, 4, 2)),
        ([FOUR_GPUS, ONE_GPU], {"gpus": 0.4}, Share(10, 4, 2)),
        ([FOUR_GPUS], {"gpus": 1, "threads": 16}, Share(2, 16, 1)),
        ([HEAD], {"gpus": 1}, Share(1, 1, 1)),
        ([HEAD, ONE_GPU], {"gpus": 0}, Share(24, 1, 16)),
        ([HEAD, ONE_GPU], {"gpus": 0, "threads": 4}, Share(6, 4, 4)),
        ([HEAD, ONE_GPU], {"gpus": 0, "threads": 4, "weights": 20 * GIB}, Share(3, 4, 2)),
        ([HEAD], {"gpus": 0, "weights": 90 * GIB}, Share(1, 1, 1)),
    ],
)
def test_as_many_workers_as_fit(
    machines: list[dict[str, float]], options: dict[str, Any], expected: Share
) -> None:
    assert divided(machines, **({"threads": None, "weights": 0} | options)) == expected


@pytest.mark.parametrize(
    ("gpus", "workers"), [(1, 1), (2, 1), (0.5, 2), (0.4, 2), (0.3, 3), (0.1, 10), (0.6, 1)]
)
def test_a_worker_is_on_one_gpu_if_it_takes_a_share(gpus: float, workers: int) -> None:
    assert workers_of_gpu(gpus) == workers


class Actor:
    """Notes what actors are started with."""

    def __init__(self, started: list[dict[str, Any]]) -> None:
        self.started = started

    def options(self, **options: Any) -> "Actor":
        self.started.append(options)
        return self

    def remote(self, _specs: Any, threads: int, share: int) -> None:
        self.started[-1] |= {"threads": threads, "share": share}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What actors of a running cluster of five GPUs are started with; this machine has none."""
    machines = [HEAD, FOUR_GPUS, ONE_GPU]
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    found: list[dict[str, Any]] = []
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        nodes=lambda: [*nodes, {"Alive": False, "Resources": FOUR_GPUS}],
        cluster_resources=lambda: {"CPU": 56.0, "GPU": 5.0},
        remote=lambda _: Actor(found),
    )
    monkeypatch.setattr(ray_cluster, "import_ray", lambda: ray)
    return found


def test_the_clusters_gpus_count_not_the_drivers(started: list[dict[str, Any]]) -> None:
    cluster = RayCluster([], address="head:1", count=None, threads=None, gpus=1.0, own_cpus=2)
    assert cluster.count == 5
    cluster.start()
    assert (started[0]["num_gpus"], started[0]["num_cpus"], started[0]["share"]) == (1.0, 8, 1)


@pytest.mark.parametrize("count", [None, 3])
def test_workers_on_a_share_of_a_gpu_share_its_memory(
    started: list[dict[str, Any]], count: int | None
) -> None:
    cluster = RayCluster([], address="head:1", count=count, threads=2, gpus=0.25, own_cpus=2)
    assert cluster.count == (count or 20)
    cluster.start()
    assert (started[0]["num_gpus"], started[0]["threads"], started[0]["share"]) == (0.25, 2, 4)
