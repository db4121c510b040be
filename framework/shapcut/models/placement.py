"""The precision of a model's weights, and the memory that they are kept in."""

from typing import Literal, get_args

from shapcut.support.errors import InputError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Precision; ``auto`` leaves it to the checkpoint or the machine."""

Offload = Literal["off", "auto", "disk"]
"""Placement of weights: on the device; where accelerate finds room; every block on disk until it is used."""

DTYPES = tuple(name for name in get_args(Dtype) if name != "auto")


def check_dtype(name: str) -> None:
    """Refuse the name of a dtype that is not supported.

    Raises:
        InputError: if the name is not one of `Dtype`.
    """
    if name not in get_args(Dtype):
        raise InputError(f"--dtype {name} is not supported; use one of {', '.join(get_args(Dtype))}")
