"""Coalitions measured by Ray actors, each with its own copy of the model."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Annotated

import psutil
from pydantic import Field

from shapcut.contracts import DistributedWindows, Executor, GameSpec, PortableGame
from shapcut_plugins.executors.machine_share import COPIES_A_WORKER
from shapcut_plugins.executors.ray_cluster import RayCluster, import_ray, require_answer
from shapcut_plugins.executors.worker_pool import WorkerPool


class RayExecutor(Executor):
    """Ray actors on this machine or on a running cluster.

    Values equal those of a local run with as many threads; workers must read the same model files.

    Args:
        workers: number of workers; default: as many as the cluster has CPUs (or GPUs) and memory for.
        threads: CPU threads per worker; default: all CPUs of a machine, shared evenly.
        gpus: GPUs per worker; a fraction is that share of one GPU and its memory; default: 1 if the model
            is on a GPU, else 0.
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
    def distribute(self, games: Sequence[PortableGame]) -> Iterator[Sequence[DistributedWindows]]:
        """The games, measured by actors that start with the first request.

        Raises:
            InputError: if a game cannot be built elsewhere.
        """
        with (
            closing(self._cluster([game.spec() for game in games])) as cluster,
            closing(WorkerPool(cluster)) as pool,
        ):
            steps = [game.windows_per_step for game in games]
            for game in games:
                game.leave_device()
            yield [
                DistributedWindows(game, partial(pool.measure, number, step))
                for number, (game, step) in enumerate(zip(games, steps, strict=True))
            ]

    def _cluster(self, specs: Sequence[GameSpec]) -> RayCluster:
        on_gpu = any(recipe.device == "cuda" for recipe in specs)
        gpus = self.gpus if self.gpus is not None else float(on_gpu)
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count, threads = self.workers, self.threads
        if count is None and self.address == "local" and not gpus:
            count = default_workers(cpus // (threads or 1), specs)
        if count is not None and self.address == "local":
            threads = threads or max(1, cpus // count)
        return RayCluster(specs, address=self.address, count=count, threads=threads, gpus=gpus, own_cpus=cpus)


def default_workers(cpus: int, specs: Sequence[GameSpec]) -> int:
    """The number of CPU workers that this machine has memory for.

    Args:
        cpus: number of workers that the CPUs suffice for.
        specs: of games of one model; empty if unknown.
    """
    size = max((recipe.weight_bytes for recipe in specs), default=0)
    fitting = psutil.virtual_memory().available // (COPIES_A_WORKER * size) if size else cpus
    return max(1, min(cpus, fitting))
