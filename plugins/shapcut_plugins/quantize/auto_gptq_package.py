"""AutoGPTQ's own quantizer class, without the parts of its package that need another transformers."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from shapcut.contracts import InputError

_PACKAGE = "auto_gptq"


def quantizer_class() -> Any:
    """``auto_gptq.quantization.gptq.GPTQ``; the package's own ``__init__`` is not run.

    Raises:
        InputError: if the package is not installed.
    """
    if _PACKAGE not in sys.modules:
        found = importlib.util.find_spec(_PACKAGE)
        if found is None or found.submodule_search_locations is None:
            raise InputError(
                f"the package {_PACKAGE} is not installed: pip install --no-deps auto-gptq -c constraints.txt"
            )
        sys.modules[_PACKAGE] = importlib.util.module_from_spec(found)
    return importlib.import_module(f"{_PACKAGE}.quantization.gptq").GPTQ


def require_package_entry() -> None:
    """Refuse the package's own entry where it cannot work.

    Raises:
        InputError: without CUDA, and if the package cannot be imported as a whole.
    """
    if not torch.cuda.is_available():
        raise InputError("auto-gptq: entry=package needs CUDA, which is not there; use entry=layers")
    tried = subprocess.run(
        [sys.executable, "-c", f"import {_PACKAGE}"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"auto-gptq: the package cannot be imported ({reason}); use entry=layers")


@contextmanager
def without_cuda_calls() -> Iterator[None]:
    """Let the class wait for CUDA where there is none: it does so after each layer."""
    synchronize: Any = torch.cuda.synchronize
    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda *_: None
    try:
        yield
    finally:
        torch.cuda.synchronize = synchronize
