"""Checkpoints take other values tensor by tensor; what has the same values keeps its bytes."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from shapcut.export.safetensors_cut import replace_weights

A, B, C = torch.arange(6.0).reshape(2, 3), torch.ones(4), torch.full((2, 3), 2.0)


def stored(directory: Path, *files: dict[str, torch.Tensor]) -> Path:
    directory.mkdir()
    if len(files) == 1:
        save_file(files[0], directory / "model.safetensors", {"format": "pt"})
        return directory
    places: dict[str, str] = {}
    for number, tensors in enumerate(files, start=1):
        name = f"model-{number}.safetensors"
        save_file(tensors, directory / name, {"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def content(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_only_files_with_other_values_are_written_again(tmp_path: Path) -> None:
    cut = stored(tmp_path / "cut", {"a": A, "mtp.b": B}, {"c": C})
    before = content(cut)
    assert replace_weights(cut, stored(tmp_path / "saved", {"a": A + 1, "c": C}))
    after = content(cut)
    assert after["model-2.safetensors"] == before["model-2.safetensors"]
    found = load_file(cut / "model-1.safetensors")
    assert torch.equal(found["a"], A + 1)
    assert torch.equal(found["mtp.b"], B)
    index = json.loads(after["model.safetensors.index.json"])
    assert index["weight_map"] == {
        "a": "model-1.safetensors",
        "c": "model-2.safetensors",
        "mtp.b": "model-1.safetensors",
    }
    assert index["metadata"]["total_size"] == 4 * (6 + 4 + 6)


def test_equal_values_keep_their_number_format_and_others_bring_theirs(tmp_path: Path) -> None:
    exact = torch.tensor([1.0, 1.0 + 2**-20])
    cut = stored(tmp_path / "cut", {"norm": exact, "a": A})
    saved = stored(tmp_path / "saved", {"norm": exact.bfloat16(), "a": (A + 1).bfloat16()})
    assert replace_weights(cut, saved)
    found = load_file(cut / "model.safetensors")
    assert torch.equal(found["norm"], exact)
    assert torch.equal(found["a"], (A + 1).bfloat16())


def test_the_copy_of_a_tied_weight_goes_when_the_weight_changes(tmp_path: Path) -> None:
    whole = {"embed": A, "head": A.clone(), "other": C}
    cut = stored(tmp_path / "cut", whole)
    assert replace_weights(cut, stored(tmp_path / "same", {"embed": A, "other": C}))
    assert load_file(cut / "model.safetensors").keys() == whole.keys()
    assert replace_weights(cut, stored(tmp_path / "saved", {"embed": A + 1, "other": C}))
    assert load_file(cut / "model.safetensors").keys() == {"embed", "other"}


def test_another_model_is_not_taken(tmp_path: Path) -> None:
    cut = stored(tmp_path / "cut", {"a": A, "b": B})
    before = content(cut)
    assert not replace_weights(cut, stored(tmp_path / "more", {"a": A + 1, "new": C}))
    assert not replace_weights(cut, stored(tmp_path / "reshaped", {"a": (A + 1).T.contiguous()}))
    assert content(cut) == before
