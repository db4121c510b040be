"""Where a pruned model goes: a directory, or one GGUF file cut from a GGUF file."""

from collections.abc import Sequence
from pathlib import Path

from shapcut.export.gguf_rules import cut_objection, gguf_objection
from shapcut.game.granularity import plural
from shapcut.models.gguf_header import GGUFHeader, is_gguf, read_gguf_header
from shapcut.recipe.recipe import Recipe
from shapcut.support.errors import InputError
from shapcut.support.files import require_new_directory, require_new_file


def is_gguf_output(out: Path) -> bool:
    """Whether the result is a GGUF file."""
    return out.suffix.lower() == ".gguf"


def require_output(recipe: Recipe, out: Path) -> None:
    """Check that a run can write its result, before any work; several results go into directories in ``out``.

    Raises:
        InputError: if ``out`` exists, or is a GGUF file that this recipe cannot give.
    """
    if is_gguf_output(out):
        require_new_file(out)
        require_gguf_recipe(recipe, out)
    elif len(recipe.target_labels()) <= 1:
        require_new_directory(out)


def require_gguf_recipe(recipe: Recipe, out: Path) -> None:
    """Refuse a recipe whose result is not a cut of a GGUF file.

    Raises:
        InputError: with the reason.
    """
    if len(recipe.target_labels()) > 1:
        raise InputError(f"--out {out} is one file; give one target instead of several, or a directory")
    if recipe.granularity != "block":
        raise InputError(
            f"--out {out}: a GGUF file is cut by whole blocks, not by {plural(recipe.granularity)}"
        )
    if recipe.then or recipe.mend:
        option, value = ("--then", f" {recipe.then[0]}") if recipe.then else ("--mend", "")
        raise InputError(
            f"--out {out}: a GGUF file keeps the original's bytes, so {option}{value} cannot change them; "
            f"name a directory, or leave {option} out"
        )
    header = read_gguf_header(_gguf_file(recipe.model, out))
    if objection := gguf_objection(header):
        raise InputError(f"--out {out}: {recipe.model} cannot be cut as GGUF: {objection}")


def _gguf_file(model: str, out: Path) -> Path:
    if is_gguf(file := Path(model)):
        return file
    raise InputError(f"--out {out} needs a GGUF file as MODEL, not {model}; name a directory instead")


def require_gguf_cut(source: Path, kept: Sequence[int]) -> GGUFHeader:
    """Refuse a removal that a GGUF file cannot express.

    Returns:
        The header of the whole model.

    Raises:
        InputError: with the reason.
    """
    header = read_gguf_header(source)
    if objection := cut_objection(header, kept):
        raise InputError(f"cannot cut {source} as GGUF: {objection}; name a directory as --out instead")
    return header
