"""The layer functions of both generations in the ``rwkv`` package.

The package chooses its generation on import, by environment variables that it also sets. Its module is
therefore executed twice here, under private names and with explicit settings.
"""

import contextlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch

from shapcut.contracts import InputError

Generation = Literal["classic", "x070"]

_COMMON = {"RWKV_CUDA_ON": "0", "RWKV_DML_ON": "0", "RWKV_DE_VERSION": "0"}
_SETTINGS: dict[Generation, dict[str, str]] = {
    "classic": {"RWKV_V7_ON": "0", "RWKV_JIT_ON": "0"},
    "x070": {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1"},
}
_INSTALL = "pip install 'shapcut[rwkv]'"


def package_directory() -> Path:
    """The directory of the ``rwkv`` package, found without importing it.

    Raises:
        InputError: if it is not installed.
    """
    found = importlib.util.find_spec("rwkv")
    if found is None or not found.submodule_search_locations:
        raise InputError(f"RWKV models in .pth files need the rwkv package: {_INSTALL}")
    return Path(found.submodule_search_locations[0])


@cache
def functions(generation: Generation) -> ModuleType:
    """The package's module: ``classic`` has the class ``RWKV`` (v4 to v6), ``x070`` the functions of v7.

    Raises:
        InputError: if the package is not installed.
    """
    path = package_directory() / "model.py"
    name = f"shapcut_adapters._rwkv_{generation}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"the rwkv package has no {path.name}: {_INSTALL}")
    module = importlib.util.module_from_spec(spec)
    with _settings(_COMMON | _SETTINGS[generation]), _torch_switches(), _quiet_import():
        sys.modules[name] = module  # TorchScript looks names up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


@contextlib.contextmanager
def _settings(wanted: dict[str, str]) -> Iterator[None]:
    """Set environment variables while the context is open."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _torch_switches() -> Iterator[None]:
    """Restore TF32 and cuDNN benchmarking, which the package enables for the whole process."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Suppress the package's greeting and torch's deprecation warning on TorchScript."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.* is deprecated")
        yield
