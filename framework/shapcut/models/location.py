"""Where a model is: a directory, a file, the hub."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from shapcut.models.checkpoint_format import CheckpointFormat, asked_formats, claiming_format
from shapcut.models.demo import DEMO_PREFIX, demo_directory, fetched_demo
from shapcut.models.gguf_header import GGUF_MAGIC, read_gguf_header
from shapcut.models.gguf_parts import parts_of
from shapcut.models.stored_tensors import require_depth, require_plain_numbers, stored_tensors
from shapcut.models.untrusted import require_no_adapter, require_plain_shards, require_regular_files
from shapcut.support.errors import InputError
from shapcut.support.files import require_regular
from shapcut.support.plain_json import read_json
from shapcut.support.quiet import one_line

_HUB_TIMEOUT = 5.0
_FROM_MEMORY = "in-memory:"
_saved: dict[str, Path] = {}
"""Directories of models that were saved from memory, by source."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a model is read from.

    Attributes:
        source: as given by the user.
        path: a local directory or a hub id, or the path that `format` claims.
        gguf_file: absolute path of the GGUF file in that directory, or None.
        local: whether to leave the hub alone, because the files are local or the hub is unreachable.
        format: the checkpoint format, or None for transformers' own.
        revision: branch, tag or commit of a hub id; None: the main one.
        text_only: whether only the language model inside a multimodal model is loaded.
    """

    source: str
    path: str
    gguf_file: str | None = None
    local: bool = True
    format: CheckpointFormat | None = None
    revision: str | None = None
    text_only: bool = False

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for transformers' ``from_pretrained``."""
        arguments: dict[str, Any] = {"local_files_only": self.local}
        if self.revision is not None:
            arguments["revision"] = self.revision
        return arguments if self.gguf_file is None else arguments | {"gguf_file": self.gguf_file}

    @property
    def name(self) -> str:
        """A short name to print."""
        for prefix in (DEMO_PREFIX, _FROM_MEMORY):
            if self.source.startswith(prefix):
                return self.source.removeprefix(prefix)
        path = Path(self.source).resolve() if Path(self.source).exists() else Path(self.source)
        return path.stem if path.is_file() else path.name

    @property
    def weights(self) -> Path | None:
        """The local file or directory that holds the weights; None if they are on the hub."""
        path = Path(self.gguf_file or self.path)
        return path if path.exists() else None

    @property
    def checkpoint(self) -> Path | None:
        """As `weights`; None for a GGUF file, whose weights are quantized in a way of its own."""
        return None if self.gguf_file is not None else self.weights

    @property
    def commit(self) -> str | None:
        """The commit of a hub id's files in the cache, or the revision that was asked for; None if local."""
        directory = self.directory if self.revision is not None or not Path(self.path).exists() else None
        in_cache = directory is not None and directory.parent.name == "snapshots"
        return directory.name if directory is not None and in_cache else self.revision

    @property
    def directory(self) -> Path | None:
        """The directory of a safetensors checkpoint of transformers; None for other formats."""
        from transformers.utils.hub import cached_file  # noqa: PLC0415 - slow to import

        if self.format is not None or self.gguf_file is not None:
            return None
        try:
            found = cached_file(self.path, "config.json", local_files_only=True, revision=self.revision)
        except OSError:
            return None
        return None if found is None else Path(found).parent

    def require_safetensors(self) -> None:
        """Refuse a checkpoint with only pickled weights, which can run code when opened.

        Raises:
            InputError: with the conversion command.
        """
        from transformers.utils.hub import cached_file  # noqa: PLC0415 - slow to import

        for name in ("model.safetensors.index.json", "model.safetensors"):
            try:
                found = cached_file(self.path, name, local_files_only=self.local, revision=self.revision)
            except OSError:
                continue
            if found is not None and name.endswith(".index.json"):
                require_plain_shards(Path(found))
            return
        convert = f"AutoModelForCausalLM.from_pretrained({self.path!r}).save_pretrained('converted')"
        raise InputError(
            f"{self.source} has no model.safetensors, and pickled weights (.bin, .pth) are not opened; "
            f"if you trust them: {convert}"
        )


@contextmanager
def saved_in(directory: Path, name: str) -> Iterator[str]:
    """The source ``in-memory:NAME`` of a checkpoint that exists only in this context."""
    source = f"{_FROM_MEMORY}{name}"
    _saved[source] = directory
    try:
        yield source
    finally:
        del _saved[source]


def locate(
    source: str,
    formats: Sequence[CheckpointFormat] = (),
    *,
    offline: bool = False,
    revision: str | None = None,
    text_only: bool = False,
) -> Location:
    """Find a model by name.

    Args:
        source: a directory, GGUF file, demo model, hub id, or a path that one of the formats claims.
        formats: formats to try before transformers.
        offline: whether downloads are forbidden, of demo models too.
        revision: branch, tag or commit of a hub id.
        text_only: whether to load only the language model inside a multimodal model.

    Raises:
        InputError: if there is no such model, or the format that claims it refuses it.
    """
    found = _located(source, formats, offline, revision)
    if text_only and (found.format is not None or found.gguf_file is not None):
        raise InputError(
            f"--text-only needs a multimodal checkpoint of transformers; {source} is another format"
        )
    return replace(found, text_only=text_only)


def _located(
    source: str, formats: Sequence[CheckpointFormat], offline: bool, revision: str | None
) -> Location:
    if source in _saved:
        return replace(_located_here(str(_saved[source]), _saved[source], formats), source=source)
    if source.startswith(_FROM_MEMORY):
        raise InputError(f"{source} was in the memory of another process; name a checkpoint")
    path = Path(source)
    here = source.startswith(DEMO_PREFIX) or (source and path.exists())
    if here and revision is not None:
        raise InputError(f"--revision {revision} is for hub ids; {source} is on this machine")
    if source.startswith(DEMO_PREFIX):
        return Location(source, str(fetched_demo(source) if offline else demo_directory(source)))
    return _located_here(source, path, formats) if here else _located_on_hub(source, offline, revision)


def _located_here(source: str, path: Path, formats: Sequence[CheckpointFormat]) -> Location:
    require_regular(path)
    if path.is_dir():
        require_regular_files(path)
    claiming = claiming_format(path, formats)
    if claiming is not None:
        if path.is_dir() and (tensors := stored_tensors(path)):
            require_depth(tensors, claiming.depth(path), path)
        claiming.check(path)
        return Location(source, source, format=claiming)
    asked = asked_formats(formats)
    return _located_directory(source, path, asked) if path.is_dir() else _located_file(source, path, asked)


def _located_directory(source: str, path: Path, asked: str) -> Location:
    require_no_adapter(path)
    config = path / "config.json"
    if not config.is_file():
        raise InputError(
            f"the directory {source} has no config.json: it is not a transformers checkpoint, "
            f"and no other format claims it (asked: {asked})"
        )
    try:
        content = read_json(config)
    except (OSError, ValueError) as error:
        raise InputError(f"{config} is damaged: {one_line(error)}; take another copy") from error
    if not isinstance(content, dict):
        raise InputError(f"{config} is damaged: it holds no JSON object; take another copy")
    _require_sound_weights(path, content)
    return Location(source, source)


def _require_sound_weights(path: Path, config: dict[str, Any]) -> None:
    """Check a config against the headers of its weight files."""
    tensors = stored_tensors(path)
    text = config.get("text_config")
    text = text if isinstance(text, dict) else {}
    require_depth(tensors, config.get("num_hidden_layers", text.get("num_hidden_layers")), path)
    if not (config.get("quantization_config") or text.get("quantization_config")):
        require_plain_numbers(tensors, path)


def _located_file(source: str, path: Path, asked: str) -> Location:
    with path.open("rb") as file:
        magic = file.read(len(GGUF_MAGIC))
    if magic != GGUF_MAGIC:
        raise InputError(
            f"{source} is not a GGUF file, and no other format claims it (asked: {asked}); "
            "name a .gguf file or a checkpoint's directory"
        )
    require_no_adapter(path.parent)
    absolute = path.absolute()
    if len(parts_of(path)) > 1:
        absolute = read_gguf_header(absolute).files[0]
    return Location(source, str(absolute.parent), str(absolute))


def _located_on_hub(source: str, offline: bool, revision: str | None) -> Location:
    import huggingface_hub as hub  # noqa: PLC0415 - slow to import
    from huggingface_hub import utils as hub_utils  # noqa: PLC0415

    utils: Any = hub_utils
    try:
        utils.validate_repo_id(source)
    except ValueError as error:
        raise InputError(f"unknown model {source!r}: there is no such directory or file") from error
    if not offline and _hub_is_reachable():
        return Location(source, source, local=False, revision=revision)
    if isinstance(hub.try_to_load_from_cache(source, "config.json", revision=revision), str):
        return Location(source, source, revision=revision)
    if offline:
        raise InputError(
            f"unknown model {source!r}: there is no such directory or file, and no config of that name is "
            f"cached; nothing is downloaded here: fetch it with: hf download {source} config.json"
        )
    raise InputError(
        f"unknown model {source!r}: there is no such directory or file, and the hub ({_hub_endpoint()}) "
        "cannot be reached"
    )


def _hub_endpoint() -> str:
    from huggingface_hub import constants  # noqa: PLC0415 - slow to import

    return constants.ENDPOINT


def _hub_is_reachable() -> bool:
    """Try to connect once; the hub's own client would retry for half a minute."""
    from huggingface_hub import constants  # noqa: PLC0415 - slow to import

    if constants.HF_HUB_OFFLINE:
        return False
    endpoint = urlsplit(_hub_endpoint())
    if endpoint.scheme in getproxies():
        return True  # only the proxy knows, and the client knows how to ask it
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=_HUB_TIMEOUT).close()
    except OSError:
        return False
    return True
