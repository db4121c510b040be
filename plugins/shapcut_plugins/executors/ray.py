"""Coalitions measured by Ray actors, each with its own copy of the model."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Annotated

import psutil
import torch
from pydantic import Field

from shapcut.contracts import DistributedGame, Executor, GameSpec, PortableGame
from shapcut_plugins.executors.ray_cluster import RayCluster, import_ray, require_answer
from shapcut_plugins.executors.worker_pool import WorkerPool

_COPIES_A_WORKER = 2
"""Memory of a worker in model sizes: its weights, and as much again for everything else."""


class RayExecutor(Executor):
    """Ray actors on this machine or on a running cluster.

    Values equal those of a local run with as many threads; workers must read the same model files.

    Args:
        workers: number of workers; default: one per CPU (or GPU) as memory allows.
        threads: CPU threads per worker; default: all CPUs, shared evenly.
        gpus: GPUs per worker, may be a fraction; default: 1 if the model is on a GPU, else 0.
        address: of a running cluster, ``HOST:PORT`` or ``auto``; default: the variable RAY_ADDRESS, else
            ``local``, a cluster that ends with this process.
    """

    name = "ray"

    def __init__(
        self,
        workers: Annotated[int, Field(ge=1)] | None = None,
        threads: Annotated[int, Field(ge=1)] | None = None,
        gpus: Annotated[float, Field(ge=0)] | None = None,
        address: str | None = None,
    ) -> None:
        self.workers = workers
        self.threads = threads
        self.gpus = gpus
        self.address = address or os.environ.get("RAY_ADDRESS") or "local"

    def check(self) -> None:
        """Check that Ray is installed and a named cluster is usable.

        Raises:
            InputError: if not, or if the cluster has too few processors.
        """
        import_ray()
        if self.address != "local":
            require_answer(self.address)
            with closing(self._cluster([])) as cluster:
                cluster.connect()

    @contextmanager
    def distribute(self, games: Sequence[PortableGame]) -> Iterator[Sequence[DistributedGame]]:
        """The games, measured by actors that start with the first request.

        Raises:
            InputError: if a game cannot be built elsewhere.
        """
        with (
            closing(self._cluster([game.spec() for game in games])) as cluster,
            closing(WorkerPool(cluster)) as pool,
        ):
            yield [DistributedGame(game, partial(pool.measure, number)) for number, game in enumerate(games)]

    def _cluster(self, specs: Sequence[GameSpec]) -> RayCluster:
        on_gpu = any(recipe.device == "cuda" for recipe in specs)
        gpus = self.gpus if self.gpus is not None else float(on_gpu)
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = self.workers or default_workers(cpus // (self.threads or 1), gpus, specs)
        return RayCluster(
            specs,
            address=self.address,
            count=count,
            threads=self.threads or max(1, cpus // count),
            gpus=gpus,
        )


def default_workers(cpus: int, gpus: float, specs: Sequence[GameSpec]) -> int:
    """The number of workers that this machine has processors and memory for.

    Args:
        cpus: number of workers that the CPUs suffice for.
        gpus: GPUs per worker; 0 for CPU workers.
        specs: of games of one model; empty if unknown.
    """
    if gpus:
        return max(1, int(torch.cuda.device_count() / gpus))
    size = max((recipe.weight_bytes for recipe in specs), default=0)
    fitting = psutil.virtual_memory().available // (_COPIES_A_WORKER * size) if size else cpus
    return max(1, min(cpus, fitting))
