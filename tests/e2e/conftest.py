"""Places with something wrong in them, for commands that name them."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shapcut.game.plan import RemovalPlan
from shapcut.game.store import EvaluationStore
from shapcut.support.run_directory import open_run

LATIN = "größer als früher\n".encode("latin-1") * 4000


def _text(place: Path, content: str) -> Path:
    place.write_text(content, encoding="utf-8")
    return place


def _bytes(place: Path, content: bytes) -> Path:
    place.write_bytes(content)
    return place


def _model(root: Path, like: Path, name: str, changed: dict[str, bytes | None]) -> Path:
    """A copy of a checkpoint in which some files have other content, or are missing."""
    directory = root / name
    directory.mkdir()
    for file in like.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    for file_name, content in changed.items():
        (directory / file_name).unlink(missing_ok=True)
        if content is not None:
            (directory / file_name).write_bytes(content)
    return directory


def _config(like: Path, **values: Any) -> dict[str, bytes | None]:
    config = json.loads((like / "config.json").read_text(encoding="utf-8")) | values
    return {"config.json": json.dumps({k: v for k, v in config.items() if v is not ...}).encode()}


def _models(root: Path, like: Path) -> dict[str, Path]:
    weights = (like / "model.safetensors").read_bytes()
    mamba = {"d_model": 32, "n_layer": 4, "vocab_size": 300}
    changes: dict[str, dict[str, bytes | None]] = {
        "config_empty": {"config.json": b""},
        "config_binary": {"config.json": b"\xff\x00\xfe"},
        "config_list": {"config.json": b"[1]"},
        "config_deep": {"config.json": b"[" * 100_000},
        "config_untyped": _config(like, model_type=...),
        "config_unknown": _config(like, model_type="lama"),
        "config_heads": _config(like, num_attention_heads=3),
        "config_layers": _config(like, num_hidden_layers=7),
        "config_quantized": _config(like, quantization_config={"quant_method": "magic", "bits": 4}),
        "no_weights": {"model.safetensors": None},
        "weights_cut": {"model.safetensors": weights[: len(weights) // 2]},
        "weights_text": {"model.safetensors": b"these are no weights"},
        "no_tokenizer": {"tokenizer.json": None, "tokenizer_config.json": None},
        "tokenizer_damaged": {"tokenizer.json": b"{"},
        "mamba_none": {"config.json": json.dumps(mamba | {"n_layer": 0}).encode()},
        "mamba_field": {"config.json": json.dumps(mamba | {"n_layers": 4}).encode()},
        "mamba_bare": {"config.json": json.dumps(mamba).encode(), "model.safetensors": None},
    }
    places = {name: _model(root, like, name, changed) for name, changed in changes.items()}
    places["config_directory"] = _model(root, like, "config_directory", {"config.json": None})
    (places["config_directory"] / "config.json").mkdir()
    return places


def _pth(root: Path) -> dict[str, Path]:
    two = root / "two_pth"
    two.mkdir()
    other = root / "other.pth"
    torch.save({"weight": torch.zeros(2)}, other)
    for name in ("a.pth", "b.pth"):
        (two / name).write_bytes(other.read_bytes())
    return {
        "pth_empty": _bytes(root / "empty.pth", b""),
        "pth_text": _text(root / "text.pth", "these are no weights"),
        "pth_two": two,
        "pth_other": other,
    }


def _runs(root: Path) -> dict[str, Path]:
    names = ("other_run", "damaged_run", "directory_run", "manifest_damaged", "contributions_damaged")
    places = {name: root / name for name in names}
    for place in places.values():
        with open_run(place):
            pass
    with closing(EvaluationStore(places["other_run"] / "evaluations.sqlite")) as store:
        store.open_game("calibration", {"model": "another"})
    damaged = places["damaged_run"] / "evaluations.sqlite"
    with closing(EvaluationStore(damaged)) as store:
        store.open_game("calibration", {"model": "this"})
        store.add("calibration", np.eye(6, dtype=np.bool_), np.arange(6.0))
    damaged.write_bytes(damaged.read_bytes()[:5000] + b"\x55" * 5000)
    (places["directory_run"] / "evaluations.sqlite").mkdir()
    _text(places["manifest_damaged"] / "manifest.json", '{"format_version": 1, "status"')
    _text(places["contributions_damaged"] / "manifest.json", "{}")
    return places


def _texts(root: Path) -> dict[str, Path]:
    plan = RemovalPlan.removing([1, 2], 6)
    nested = "[" * 100_000
    return {
        "text": _text(root / "text.txt", "".join(f"line {i}: the quick brown fox\n" for i in range(3000))),
        "short": _text(root / "short.txt", "too short"),
        "empty": _text(root / "empty.txt", ""),
        "latin": _bytes(root / "latin.txt", LATIN),
        "file": _text(root / "file", "not a directory"),
        "jsonl_broken": _text(root / "broken.jsonl", '{"text": "a"}\n{"text"\n'),
        "jsonl_textless": _text(root / "textless.jsonl", '{"content": "a"}\n'),
        "jsonl_deep": _text(root / "deep.jsonl", nested),
        "recipe_list": _text(root / "list.yaml", "- 2\n"),
        "recipe_broken": _text(root / "broken.yaml", "remove: ["),
        "recipe_typo": _text(root / "typo.yaml", "remve: 2\n"),
        "recipe_type": _text(root / "type.yaml", "remove: {a: 1}\n"),
        "recipe_date": _text(root / "date.yaml", "remove: 2024-13-45\n"),
        "recipe_code": _text(root / "code.yaml", "remove: !!python/object/apply:os.getpid []\n"),
        "recipe_deep": _text(root / "deep.yaml", nested),
        "recipe_cycle": _text(root / "cycle.yaml", "then: &a [*a]\n"),
        "recipe_then": _text(root / "then.yaml", "then: 3\n"),
        "plan_list": _text(root / "list.json", "[]"),
        "plan_gap": _text(root / "gap.json", json.dumps({"removed": [1], "kept": [0, 3]})),
        "plan_seven": _text(root / "seven.json", RemovalPlan.removing([1], 7).model_dump_json()),
        "plan_other": _text(
            root / "other.json", plan.model_copy(update={"model_fingerprint": "0" * 64}).model_dump_json()
        ),
        "plan_nobody": _text(root / "nobody.json", RemovalPlan.removing([], 6).model_dump_json()),
        "plan_everybody": _text(root / "all.json", RemovalPlan.removing(range(6), 6).model_dump_json()),
    }


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_llama_directory: Path,
    tiny_bert_directory: Path,
    tiny_t5_directory: Path,
    tiny_gguf_file: Path,
) -> dict[str, Path]:
    """What the commands below name."""
    root = tmp_path_factory.mktemp("places")
    for name in ("empty_directory", "full_directory"):
        (root / name).mkdir()
    _text(root / "full_directory" / "precious", "mine")
    content = tiny_gguf_file.read_bytes()
    return {
        "model": tiny_llama_directory,
        "bert": tiny_bert_directory,
        "t5": tiny_t5_directory,
        "gguf": tiny_gguf_file,
        "gguf_magic": _bytes(root / "magic.gguf", b"GGUF"),
        "gguf_cut": _bytes(root / "cut.gguf", content[: len(content) // 3]),
        "empty_directory": root / "empty_directory",
        "full_directory": root / "full_directory",
        **_models(root, tiny_llama_directory),
        **_pth(root),
        **_runs(root),
        **_texts(root),
    }
