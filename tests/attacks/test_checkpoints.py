"""Checkpoints made to harm: each is refused in one line, before any work."""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

MANY = 10**9


def change(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(content | values), encoding="utf-8")


def config(**values: Any) -> Callable[[Path], None]:
    return lambda model: change(model / "config.json", **values)


def raw(name: str, content: bytes) -> Callable[[Path], None]:
    def write(model: Path) -> None:
        (model / name).write_bytes(content)

    return write


def device(name: str) -> Callable[[Path], None]:
    def link(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to("/dev/zero")

    return link


def fifo(name: str) -> Callable[[Path], None]:
    def make(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        os.mkfifo(model / name)

    return make


def sparse(name: str) -> Callable[[Path], None]:
    def make(model: Path) -> None:
        with (model / name).open("wb") as file:
            file.truncate(2**31)

    return make


def index(content: Any) -> Callable[[Path], None]:
    def write(model: Path) -> None:
        (model / "model.safetensors").rename(model / "part.safetensors")
        text = content if isinstance(content, str) else json.dumps(content)
        (model / "model.safetensors.index.json").write_text(text)

    return write


def header(length: int, content: bytes = b"") -> Callable[[Path], None]:
    return raw("model.safetensors", struct.pack("<Q", length) + content)


def named_pickle(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(weights, model / "pytorch_model.bin")
    change(model / "model.safetensors.index.json", weight_map=dict.fromkeys(weights, "pytorch_model.bin"))


def leading_outside(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    change(model / "evil.index.json", weight_map=dict.fromkeys(weights, "../outside.safetensors"))
    change(model / "config.json", transformers_weights="evil.index.json")


TENSOR = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'

ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a billion layers": (config(num_hidden_layers=MANY), "promises 1000000000 layers"),
    "a billion heads": (config(num_attention_heads=MANY), "promises 1000000000 (num_attention_heads)"),
    "a billion experts": (config(text_config={"num_local_experts": MANY}), "num_local_experts"),
    "endless layers": (raw("config.json", b'{"model_type": "llama", "num_hidden_layers": Infinity}'), "inf"),
    "fewer layers": (config(num_hidden_layers=3), "they would be lost"),
    "a config with a key twice": (raw("config.json", b'{"a": 1, "a": 2}'), "'a' is there twice"),
    "a config of numbers without end": (raw("config.json", b'{"a": ' + b"9" * 5000 + b"}"), "digits"),
    "a config that never ends": (device("config.json"), "a device, a FIFO or a socket"),
    "a config that waits": (fifo("config.json"), "a device, a FIFO or a socket"),
    "a tokenizer that never ends": (device("tokenizer.json"), "a device, a FIFO or a socket"),
    "generation settings that wait": (fifo("generation_config.json"), "a device, a FIFO or a socket"),
    "weights that never end": (device("model.safetensors"), "a device, a FIFO or a socket"),
    "a page that waits": (fifo("README.md"), "a device, a FIFO or a socket"),
    "a config of two gigabytes": (sparse("config.json"), "more than the 134,217,728 that are read"),
    "a tokenizer of two gigabytes": (sparse("tokenizer.json"), "more than the 134,217,728 that are read"),
    "a header longer than the file": (header(2**60), "is longer than the file"),
    "a header with a key twice": (
        header(len(TENSOR) * 2 - 1, (TENSOR[:-1] + "," + TENSOR[1:]).encode()),
        "'a' is there twice",
    ),
    "a header nested deeply": (header(100_000, b"[" * 100_000), "nested too deeply"),
    "an index that leads outside": (index({"weight_map": {"a": "../part.safetensors"}}), "outside its dir"),
    "an index with a key twice": (
        index('{"weight_map": {"a": "part.safetensors"}, "weight_map": {}}'),
        "is damaged",
    ),
    "an index of a pickle": (named_pickle, "only .safetensors files are opened"),
    "an index named by the config": (leading_outside, "names its weights itself"),
    "code from the hub": (config(attn_implementation="org/kernel"), "asks for code from the hub"),
    "an adapter": (raw("adapter_config.json", b"{}"), "merge the adapter"),
    "terminal codes in a name": (config(model_type="\x1b[2J\x07evil"), "evil"),
    "a name without end": (config(model_type="x" * 100_000), "xxx"),
}


@pytest.mark.parametrize(("attack", "words"), ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("command", ["inspect", "prune"])
def test_a_checkpoint(
    attack: Callable[[Path], None], words: str, command: str, model: Path, tmp_path: Path, refuse: Any
) -> None:
    attack(model)
    options = {"inspect": [], "prune": ["--remove", "1", "--out", tmp_path / "out"]}[command]
    assert words in refuse(command, model, *options)


def pth(**tensors: Any) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        torch.save({name.replace("__", "."): tensor for name, tensor in tensors.items()}, file)

    return write


def renamed(name: str) -> Callable[[Path], None]:
    return lambda file: torch.save({"emb.weight": torch.zeros(2, 2), name: torch.zeros(1)}, file)


def compressed(file: Path) -> None:
    torch.save({"emb.weight": torch.zeros(1000, 1000)}, file)
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


PTH_ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a block far away": (renamed("blocks.999999999.ln1.weight"), "names block 999999999"),
    "a block further away": (renamed("blocks.99999999999.ln1.weight"), "has no weight"),
    "a block of 5,000 digits": (renamed(f"blocks.{'9' * 5000}.ln1.weight"), "has no weight"),
    "a block in other digits": (renamed("blocks.\u0661\u0662.ln1.weight"), "has no weight"),
    "elements that are not there": (pth(emb__weight=torch.zeros(1).expand(10**6, 10**6)), "times its size"),
    "one storage for all": (
        pth(**{f"w{number}": tensor for number, tensor in enumerate([torch.zeros(10**5)] * 100)}),
        "times its size",
    ),
    "a zip bomb": (compressed, "is compressed"),
    "no tensors": (lambda file: torch.save([1, 2], file), "no dictionary of tensors"),
    "no names": (lambda file: torch.save({1: torch.zeros(1)}, file), "no dictionary of tensors"),
    "a device": (lambda file: file.symlink_to("/dev/zero"), "a device, a FIFO or a socket"),
    "a FIFO": (os.mkfifo, "a device, a FIFO or a socket"),
}


@pytest.mark.parametrize(("attack", "words"), PTH_ATTACKS.values(), ids=PTH_ATTACKS)
def test_a_pth_file(attack: Callable[[Path], None], words: str, tmp_path: Path, refuse: Any) -> None:
    attack(tmp_path / "evil.pth")
    assert words in refuse("inspect", tmp_path / "evil.pth")


@pytest.mark.parametrize("name", ["model.gguf", "model.pth", "model"])
def test_a_model_that_is_no_file(name: str, tmp_path: Path, refuse: Any) -> None:
    os.mkfifo(tmp_path / name)
    assert "a device, a FIFO or a socket" in refuse("inspect", tmp_path / name)
