"""What this distribution offers to shapcut."""

from shapcut.contracts import Register, hookimpl
from shapcut_toy.adapter import ToyAdapter
from shapcut_toy.checkpoint import ToyCheckpoint


@hookimpl
def shapcut_register_adapters(register: Register) -> None:
    register("toy", ToyAdapter)


@hookimpl
def shapcut_register_formats(register: Register) -> None:
    register("toy", ToyCheckpoint)
