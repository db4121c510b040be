"""How many workers the machines of a cluster take, and each worker's share of its machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COPIES_A_WORKER = 2
"""Main memory of a CPU worker in model sizes: its weights, and as much again for everything else."""

Machine = Mapping[str, float]
"""A machine's resources under Ray's names: CPU, GPU, and memory in bytes."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker gets.

    Attributes:
        workers: number of workers in all.
        threads: CPU threads of a worker.
        sharers: workers that share a memory: that of a GPU, or a machine's.
    """

    workers: int
    threads: int
    sharers: int


def workers_of_gpu(gpus: float) -> int:
    """The number of workers on one GPU, for GPUs per worker; 1 if a worker takes whole ones."""
    return max(1, int(1 / gpus))


def divided(machines: Sequence[Machine], *, threads: int | None, gpus: float, weights: int) -> Share:
    """As many workers as the machines have processors and memory for; at least one.

    Args:
        machines: the machines of a cluster.
        threads: CPU threads per worker; None divides a machine's CPUs evenly.
        gpus: GPUs per worker; a fraction is a share of one GPU. 0 for CPU workers.
        weights: bytes of the model's weights; 0 if unknown.
    """
    counts = [_workers_of(machine, threads or 1, gpus, weights) for machine in machines]
    cpus = [
        int(machine.get("CPU", 0)) // count for machine, count in zip(machines, counts, strict=True) if count
    ]
    return Share(
        workers=max(1, sum(counts)),
        threads=threads or max(1, min(cpus, default=1)),
        sharers=workers_of_gpu(gpus) if gpus else max(1, *counts, 1),
    )


def _workers_of(machine: Machine, threads: int, gpus: float, weights: int) -> int:
    by_cpu = int(machine.get("CPU", 0)) // threads
    if gpus:
        there = int(machine.get("GPU", 0))
        return min(by_cpu, int(there // gpus) if gpus >= 1 else there * workers_of_gpu(gpus))
    if not weights or "memory" not in machine:
        return by_cpu
    return min(by_cpu, int(machine["memory"] // (COPIES_A_WORKER * weights)))
