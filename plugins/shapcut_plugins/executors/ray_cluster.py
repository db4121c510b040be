"""A local or remote Ray cluster whose actors each hold a copy of a model."""

import importlib
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from shapcut.contracts import (
    CoalitionMatrix,
    GameSpec,
    InputError,
    ShapcutError,
    WindowMeans,
    assembled,
    build_game,
)
from shapcut_plugins.executors.machine_share import Share, divided, workers_of_gpu
from shapcut_plugins.executors.worker_pool import WorkerDiedError

_OBJECT_STORE_BYTES = 100 * 2**20
_SECONDS_TO_ANSWER = 5.0
_QUIET = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # else reports of dead workers are printed on standard output
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",
}
"""Environment settings that Ray reads when it is imported or started."""


def import_ray() -> Any:
    """Import Ray, set up to print nothing.

    Raises:
        InputError: if it is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError(
            "--executor ray needs the package ray, which is not installed: pip install 'shapcut[ray]'"
        ) from error


def require_answer(address: str) -> None:
    """Try to reach ``host:port``, since Ray itself would try for minutes; other addresses pass.

    Raises:
        InputError: if nothing answers there.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--executor ray: no cluster answers at {address}: {error}") from error


class Measurer:
    """Runs in an actor: builds copies of the games and measures coalitions.

    Args:
        specs: one per game.
        threads: torch threads.
        share: number of measurers that share the memory of a GPU or of a machine.
    """

    def __init__(self, specs: Sequence[GameSpec], threads: int, share: int) -> None:
        self._specs = specs
        self._threads = threads
        self._share = share
        self._games: dict[int, Any] = {}

    def prepare(self) -> None:
        """Load the model."""
        torch.set_num_threads(self._threads)
        self._game(0)

    def measure(self, game: int, coalitions: CoalitionMatrix, first: int, last: int) -> WindowMeans:
        """Means of coalitions on some windows of one of the games."""
        parts = self._game(game).window_parts(coalitions, first, last)
        return assembled(parts, len(coalitions), first, last)

    def _game(self, number: int) -> Any:
        if number not in self._games:
            relative = next(iter(self._games.values()), None)
            self._games[number] = build_game(self._specs[number], relative, share=self._share)
        return self._games[number]


class RayCluster:
    """Ray actors as workers of a `shapcut_plugins.executors.worker_pool.WorkerPool`.

    Args:
        specs: of the games to measure.
        address: of a running cluster, or ``local`` to start one that ends with this process.
        count: number of workers; None for as many as the cluster takes.
        threads: CPU threads per worker; None shares the CPUs of the cluster's machines evenly.
        gpus: GPUs per worker, may be a fraction.
        own_cpus: number of CPUs that a local cluster may use.
    """

    def __init__(
        self,
        specs: Sequence[GameSpec],
        *,
        address: str,
        count: int | None,
        threads: int | None,
        gpus: float,
        own_cpus: int,
    ) -> None:
        self._ray = import_ray()
        self._specs = specs
        self._address = address
        self._asked = count
        self._threads = threads
        self._gpus = gpus
        self._own_cpus = own_cpus
        self._share: Share | None = None
        self._connected = False

    @property
    def count(self) -> int:
        """The number of workers; connects, because the cluster may decide it."""
        return self._connect_once().workers

    def connect(self) -> None:
        """Start or join the cluster, unless this process is already connected.

        Raises:
            InputError: if that fails, or the cluster has too few processors for all workers.
        """
        if not self._ray.is_initialized():
            cpus = self._asked * self._threads if self._asked and self._threads else self._own_cpus
            own = {"num_cpus": cpus, "object_store_memory": _OBJECT_STORE_BYTES}
            try:
                self._ray.init(
                    address=self._address,
                    include_dashboard=False if self._address == "local" else None,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    **(own if self._address == "local" else {}),
                )
            except Exception as error:
                raise InputError(
                    f"--executor ray: cannot use {self._address}: {_first_line(error)}"
                ) from error
            self._connected = True
        self._share = self._shares()
        self._require("CPU", self._share.workers * self._share.threads)
        self._require("GPU", self._share.workers * self._gpus)

    def _connect_once(self) -> Share:
        if self._share is None:
            self.connect()
        return self._share or self._shares()

    def _shares(self) -> Share:
        """What a worker gets of the cluster's machines."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        weights = max((spec.weight_bytes for spec in self._specs), default=0)
        most = divided(machines, threads=self._threads, gpus=self._gpus, weights=weights)
        if self._asked is None:
            return most
        cpus = int(sum(machine.get("CPU", 0) for machine in machines))
        sharers = workers_of_gpu(self._gpus) if self._gpus else self._asked
        return Share(self._asked, self._threads or max(1, cpus // self._asked), sharers)

    def close(self) -> None:
        """Disconnect; a local cluster ends."""
        if self._connected:
            self._ray.shutdown()
            self._connected = False
        self._share = None

    def start(self) -> Any:
        """Start an actor; the first one also connects."""
        share = self._connect_once()
        actor = self._ray.remote(Measurer).options(
            num_cpus=share.threads,
            num_gpus=self._gpus,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(share.threads)}},
        )
        return actor.remote(self._specs, share.threads, share.sharers)

    def stop(self, worker: Any) -> None:
        """Kill an actor."""
        with suppress(self._ray.exceptions.RayError):  # the cluster may have ended
            self._ray.kill(worker)

    def prepare(self, worker: Any) -> Any:
        """Start loading the model."""
        return worker.prepare.remote()

    def measure(self, worker: Any, game: int, coalitions: CoalitionMatrix, first: int, last: int) -> Any:
        """Start measuring coalitions on some windows."""
        return worker.measure.remote(game, coalitions, first, last)

    def wait(self, tasks: Sequence[Any]) -> Any:
        """Wait for the first finished task."""
        done, _ = self._ray.wait(list(tasks), num_returns=1)
        return done[0]

    def result(self, task: Any) -> WindowMeans | None:
        """The result of a finished task.

        Raises:
            WorkerDiedError: if the actor or its machine died.
            ShapcutError: if it failed; shapcut's own errors are re-raised.
        """
        errors = self._ray.exceptions
        try:
            means: WindowMeans | None = self._ray.get(task)
        except errors.RayTaskError as error:
            if isinstance(error.cause, ShapcutError):
                raise error.cause from None
            raise ShapcutError(f"a worker failed: {_first_line(error.cause)}") from error
        except errors.OutOfMemoryError as error:
            raise WorkerDiedError("out of memory") from error
        except (
            errors.RayActorError,
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.ObjectLostError,
        ) as error:
            raise WorkerDiedError(_first_line(error)) from error
        except errors.RayError as error:
            raise ShapcutError(f"the Ray cluster failed: {_first_line(error)}") from error
        return means

    def _require(self, resource: str, needed: float) -> None:
        there = self._ray.cluster_resources().get(resource, 0)
        if needed > there:
            workers = self.count
            self.close()
            raise InputError(
                f"--executor ray: {workers} workers need {needed:g} {resource}s in all, "
                f"the cluster has {there:g}; ask for fewer with workers=N or threads=K"
            )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
