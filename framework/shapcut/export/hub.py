"""Publish a written checkpoint or GGUF file on the Hugging Face Hub."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapcut.models.gguf_header import is_gguf
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.plain_yaml import load_plain_yaml
from shapcut.support.quiet import one_line, quiet_libraries

_OWN = ("README.md", "plan.json", "recipe.yaml")
"""Files that shapcut writes beside the weights; for a GGUF file, in the run directory."""

_NAME_IT = "name what prune or apply wrote as --out"

_WEIGHTS = (".safetensors", ".pth", ".bin")
_TEXTS = (".json", ".md", ".txt", ".yaml", ".yml", ".jinja", ".py")
_LONGEST_TEXT = 1 << 24
_NAMES = re.compile(r'("(?:_?name_or_path|_commit_hash|gguf_file)"\s*:\s*")((?:[^"\\]|\\.)*)(")')
_PATH = re.compile(r"(?<![\w.:/~<-])(?:/[\w.@+%~-]+){2,}/?")


@dataclass(frozen=True, slots=True)
class HubTarget:
    """A repository on the hub that may be written to.

    Attributes:
        name: ``OWNER/MODEL``, or ``MODEL`` of the token's owner.
        private: whether a new repository is private.
        update: whether it may exist already.
        token: the access token; never shown.
    """

    name: str
    private: bool
    update: bool
    token: str

    def __repr__(self) -> str:
        return f"HubTarget({self.name!r}, private={self.private}, update={self.update})"


def hub_target(name: str, *, private: bool = True, update: bool = False) -> HubTarget:
    """Check a name and find the token, without asking the hub.

    Raises:
        InputError: if the name is malformed, there is no token, or the hub is switched off.
    """
    import huggingface_hub as hub  # noqa: PLC0415 - slow to import
    from huggingface_hub import constants  # noqa: PLC0415
    from huggingface_hub import utils as hub_utils  # noqa: PLC0415

    utils: Any = hub_utils
    try:
        utils.validate_repo_id(name)
    except ValueError as error:
        raise InputError(f"{name!r} cannot be a model on the hub: {one_line(error)}") from error
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"cannot push to {name}: HF_HUB_OFFLINE is set; unset it")
    token = hub.get_token()
    if not token:
        raise InputError(
            f"cannot push to {name}: there is no access token; run `hf auth login`, or set HF_TOKEN"
        )
    return HubTarget(name, private, update, token)


def published_files(out: Path, run: Path) -> dict[str, Path]:
    """The files to publish, by their names on the hub.

    Args:
        out: a finished checkpoint's directory, or a finished GGUF file.
        run: the run directory, which has the texts about a GGUF file.

    Raises:
        InputError: if ``out`` is neither, naming what is missing.
    """
    if is_gguf(out):
        missing = [name for name in _OWN if not (run / name).is_file()]
        if missing:
            raise InputError(
                f"{run} has no {missing[0]}; name with --run the run directory of the finished run that "
                f"wrote {out}"
            )
        return {out.name: out, **{name: run / name for name in _OWN}}
    if not out.is_dir():
        what = "is not a GGUF file" if out.exists() else "does not exist"
        raise InputError(f"{out} {what}; {_NAME_IT}")
    present = {path.name for path in out.iterdir() if path.is_file()}
    missing = [name for name in _OWN if name not in present]
    if not missing and not any(name.endswith(_WEIGHTS) for name in present):
        missing = ["weight files"]
    if missing:
        raise InputError(f"{out} is not a finished checkpoint of shapcut: it has no {missing[0]}; {_NAME_IT}")
    named = {file.relative_to(out): file for file in sorted(out.rglob("*")) if file.is_file()}
    return {
        name.as_posix(): file
        for name, file in named.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def push(out: Path, run: Path, target: HubTarget) -> str:
    """Upload a finished checkpoint or GGUF file as one commit; return its address.

    Absolute paths in the texts become their last part.

    Args:
        out: the directory or file.
        run: the run directory.
        target: where to.

    Raises:
        InputError: if it is not finished, or the repository exists and may not be updated.
        ShapcutError: if the hub refuses or cannot be reached.
    """
    import huggingface_hub as hub  # noqa: PLC0415 - slow to import

    api = hub.HfApi(token=target.token)
    operations = [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in _contents(published_files(out, run), out)
    ]
    try:
        with quiet_libraries():
            created = api.create_repo(target.name, private=target.private, exist_ok=target.update)
            api.create_commit(created.repo_id, operations, commit_message="Upload a model pruned by shapcut")
    except Exception as error:
        raise _explained(error, target) from error
    return str(created)


def _explained(error: Exception, target: HubTarget) -> ShapcutError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 409:  # noqa: PLR2004 - conflict
        return InputError(f"{target.name} exists on the hub; choose another name, or update it with --update")
    said = getattr(error, "server_message", None)
    reason = f"{one_line(error)} {' '.join(said.split())}" if said else one_line(error)
    return ShapcutError(f"cannot push to {target.name}: {reason.replace(target.token, '***')}")


def _contents(files: Mapping[str, Path], out: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Each file's name and what to upload: the file itself, or a text without this machine's paths."""
    private = _private_paths(files, out)
    for name, file in files.items():
        if file.suffix.lower() not in _TEXTS or file.stat().st_size > _LONGEST_TEXT:
            yield name, file
            continue
        before = file.read_bytes()
        try:
            after = _without_paths(before.decode(), private, own=name in _OWN).encode()
        except UnicodeDecodeError:
            after = before
        yield name, file if after == before else after


def _without_paths(text: str, private: dict[str, str], *, own: bool) -> str:
    for path, name in private.items():
        text = text.replace(path, name)
    text = _NAMES.sub(lambda found: f"{found[1]}{_last_part(found[2])}{found[3]}", text)
    return _PATH.sub(lambda found: _last_part(found[0]), text) if own else text


def _last_part(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def _private_paths(files: Mapping[str, Path], out: Path) -> dict[str, str]:
    """Absolute paths that the run was given, as they may be written, with their last parts; longest first."""
    given = {str(out.absolute()), str(out.resolve()), *_strings(_recipe(files["recipe.yaml"]))}
    for line in files["README.md"].read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("      "):  # a command, in a block of code
            given.update(_words(line))
    paths = {value for value in given if Path(value).is_absolute() and Path(value).name}
    found = {}
    for path in paths:
        escaped = re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", path)
        for written in (path, shlex.quote(path), escaped):
            found[written] = Path(path).name if written != shlex.quote(path) else shlex.quote(Path(path).name)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


def _words(line: str) -> list[str]:
    """The words of a command, and what follows the equals sign in them."""
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    return [part for word in words for part in (word, word.partition("=")[2])]


def _recipe(file: Path) -> Any:
    try:
        return load_plain_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is damaged: {one_line(error)}") from error


def _strings(content: Any) -> Iterator[str]:
    """All texts in plain data."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _strings(value)
