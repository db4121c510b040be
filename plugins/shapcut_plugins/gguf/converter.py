"""llama.cpp's own converter, where it is installed."""

import os
import shutil
import sys
from pathlib import Path

from shapcut.contracts import InputError, ShapcutError, run_child

NAME = "convert_hf_to_gguf.py"
VARIABLE = "SHAPCUT_GGUF_CONVERTER"


def find_converter(named: str | None) -> Path:
    """The converter: as named by the option or the environment, else on the path.

    Raises:
        InputError: if it is not there.
    """
    asked = named or os.environ.get(VARIABLE)
    if asked:
        if Path(asked).is_file():
            return Path(asked).absolute()
        raise InputError(f"gguf: the converter {asked} is not a file; name {NAME} of llama.cpp")
    found = shutil.which(NAME) or next(
        (str(Path(place) / NAME) for place in os.get_exec_path() if (Path(place) / NAME).is_file()), None
    )
    if found is None:
        raise InputError(
            f"gguf: a model that is not a GGUF file needs llama.cpp's {NAME}: get it with `git clone "
            f"https://github.com/ggml-org/llama.cpp`, and name it with gguf:converter=FILE or {VARIABLE}"
        )
    return Path(found).absolute()


def convert(converter: Path, checkpoint: Path, target: Path, dtype: str, directory: Path) -> None:
    """Convert a checkpoint in another process.

    Raises:
        ShapcutError: with the last line that the process wrote, if it fails.
    """
    log = directory / "log.txt"
    arguments = [
        str(converter),
        str(checkpoint.resolve()),
        "--outfile",
        str(target.resolve()),
        "--outtype",
        dtype,
    ]
    # llama.cpp keeps the parts of the script beside it
    places = [converter.parent, *map(Path, sys.path), converter.parent / "gguf-py"]
    paths = os.pathsep.join(str(place.resolve()) for place in places)
    with log.open("wb") as output:
        status = run_child(
            "shapcut_plugins.gguf.converter_worker",
            arguments,
            directory,
            output=output,
            environment=os.environ | {"PYTHONPATH": paths},
        )
    if status or not target.is_file():
        written = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(written) if line.strip()), f"status {status}")
        raise ShapcutError(f"gguf: {converter.name} failed: {last} (see {log})")
