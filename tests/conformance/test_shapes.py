"""Models with the structure of published ones, cut at random places; benchmarks/shapes.py tries them all."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from shapcut.support.quiet import quiet_libraries


def _load_shapes() -> ModuleType:
    path = Path(__file__).parents[1] / "shapes" / "shapes.py"
    specification = importlib.util.spec_from_file_location("shapes", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


shapes = _load_shapes()

CHOSEN = (
    "Qwen/Qwen3-8B",
    "openai/gpt-oss-20b",
    "google/gemma-4-E2B",
    "HuggingFaceTB/SmolLM3-3B",
    "zai-org/GLM-4.5-Air",
    "zai-org/GLM-5.2",
    "ai21labs/AI21-Jamba-1.5-Mini",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "meta-llama/Llama-4-Scout-17B-16E",
)
"""Different mechanisms, and quick."""


def test_there_are_many_shapes() -> None:
    assert len(shapes.SHAPES) >= 60
    assert sum(shape["source"] == "config.json" for shape in shapes.SHAPES.values()) >= 44
    assert set(CHOSEN) <= set(shapes.SHAPES)


@pytest.mark.filterwarnings("ignore:.*rope_scaling.*:FutureWarning")
@pytest.mark.parametrize("name", CHOSEN)
def test_a_published_shape_is_exact(name: str) -> None:
    with quiet_libraries():
        found = shapes.try_shape(name)
    assert found.exact, found
