"""Kernels fused by `torch.compile`, with the uncompiled function as fallback."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch

from shapcut.support.files import cache_directory

ROUND_LIKE_EAGER: dict[str, Any] = {"emulate_precision_casts": True}
"""Otherwise fused kernels keep intermediates in float32 that separate kernels round to the tensors' dtype."""


class Fused:
    """A function that runs as fused kernels, or uncompiled if compilation fails.

    Intermediates are rounded as in the uncompiled function (arithmetic with constants may keep more bits):
    otherwise, in bfloat16, losses of deep cuts would differ by tenths of a nat.

    Every input shape is compiled separately on first use. Compiled kernels are kept in shapcut's cache folder
    (unless TORCHINDUCTOR_CACHE_DIR names another), so that a later process starts in seconds.

    Args:
        function: a function of modules, tensors and plain values.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_directory() / "kernels"))
        self._function = function
        with warnings.catch_warnings():  # torch's own modules, imported now, use what torch deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            self._compiled: Callable[..., Any] | None = torch.compile(
                function, dynamic=False, options=ROUND_LIKE_EAGER
            )
        self.failure: Exception | None = None
        """Why the function runs uncompiled, or None."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result."""
        if self._compiled is not None:
            from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - seconds to import

            try:
                return self._compiled(*args, **kwargs)
            except TorchDynamoException as error:
                self._compiled, self.failure = None, error
        return self._function(*args, **kwargs)
