"""Ways of storing models that are not transformers' own, from a path to a measured model."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from shapcut import builtin
from shapcut.api import load_game
from shapcut.host.hookspecs import hookimpl
from shapcut.host.host import build_host
from shapcut.measurement.sizes import checkpoint_bytes
from shapcut.models.adapter import Adapter
from shapcut.models.checkpoint_format import CheckpointFormat
from shapcut.models.fingerprint import config_of
from shapcut.models.loading import load
from shapcut.models.source import ModelSource, inspect_source
from shapcut.support.errors import InputError, UnsupportedModelError
from shapcut.valuation.model_game import model_fingerprint


class Parcel(CheckpointFormat):
    """Files that end in .parcel and hold how often the weights of a given model are doubled."""

    name = "parcel"

    def __init__(self, model: nn.Module | None = None, tokenizer: Any = None) -> None:
        self.model, self.tokenizer = model, tokenizer

    def claims(self, path: Path) -> bool:
        return path.suffix == ".parcel"

    def check(self, path: Path) -> None:
        if path.read_text() == "foreign":
            raise UnsupportedModelError(f"{path} is of a foreign country")

    def depth(self, path: Path) -> int | None:
        return 6

    def load(self, path: Path, *, device: torch.device, dtype: torch.dtype | None) -> tuple[nn.Module, Any]:
        times = int(path.read_text())
        model = copy.deepcopy(self.model)
        assert model is not None
        model.lm_head.weight.data *= 2**times
        return model.to(device, dtype), self.tokenizer


class Crate(Parcel):
    """Claims the same files."""

    name = "crate"


class Offering:
    """A plugin with one format and the adapter for its models."""

    def __init__(self, adapter: Adapter, parcel: Parcel) -> None:
        self.adapter, self.parcel = adapter, parcel

    @hookimpl
    def shapcut_register_formats(self, register: Any) -> None:
        register("parcel", lambda: self.parcel)

    @hookimpl
    def shapcut_register_adapters(self, register: Any) -> None:
        register("tiny-llama", lambda: self.adapter)


@pytest.fixture
def parcel(tmp_path: Path) -> Path:
    path = tmp_path / "three.parcel"
    path.write_text("3")
    return path


def test_the_format_that_claims_a_path_loads_it(
    parcel: Path, tiny_llama_model: LlamaForCausalLM, tokenizer: Any
) -> None:
    formats = [Parcel(tiny_llama_model, tokenizer)]
    source = ModelSource.find(str(parcel), formats, device="cpu", dtype="bfloat16")
    assert source.location.name == "three"
    loaded = load(source)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert list(loaded.tokenizer("a")["input_ids"])


def test_a_format_is_asked_before_transformers(tiny_llama_directory: Path) -> None:
    class Everything(Parcel):
        def claims(self, path: Path) -> bool:
            return True

        def check(self, path: Path) -> None:
            raise InputError("mine")

    with pytest.raises(InputError, match="mine"):
        inspect_source(ModelSource.find(str(tiny_llama_directory), formats=[Everything()]))


def test_what_the_format_knows_is_known_without_weights(parcel: Path) -> None:
    source = ModelSource.find(str(parcel), [Parcel()])
    facts = inspect_source(source)
    assert (facts.depth, facts.max_length) == (6, None)
    assert source.location.checkpoint == parcel


def test_two_formats_that_claim_one_path_are_named(parcel: Path) -> None:
    with pytest.raises(InputError, match=r"several formats claim .*three\.parcel: crate, parcel"):
        ModelSource.find(str(parcel), [Parcel(), Crate()])


def test_what_the_format_refuses_is_refused_before_loading(parcel: Path) -> None:
    parcel.write_text("foreign")
    with pytest.raises(UnsupportedModelError, match="foreign country"):
        ModelSource.find(str(parcel), [Parcel()])


def test_any_error_of_a_format_becomes_a_line(parcel: Path) -> None:
    parcel.write_text("no number")
    with pytest.raises(InputError, match=r"cannot load .*three\.parcel as parcel: invalid literal") as caught:
        load(ModelSource.find(str(parcel), formats=[Parcel()]))
    assert "\n" not in str(caught.value)


def test_a_path_that_nobody_claims_says_who_was_asked(tmp_path: Path) -> None:
    file = tmp_path / "model.other"
    file.write_text("hello")
    for path in (tmp_path, file):
        with pytest.raises(InputError, match=r"no other format claims it \(asked: crate, parcel\)"):
            inspect_source(ModelSource.find(str(path), formats=[Parcel(), Crate()]))
        with pytest.raises(InputError, match=r"\(asked: none is installed\)"):
            inspect_source(ModelSource.find(str(path)))


def test_a_game_is_made_of_a_file_through_the_plugins(
    parcel: Path,
    llama_adapter: Adapter,
    tiny_llama_model: LlamaForCausalLM,
    tokenizer: Any,
    install: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offering = Offering(llama_adapter, Parcel(tiny_llama_model, tokenizer))
    monkeypatch.setattr("shapcut.api.build_host", lambda: build_host(extra=[builtin, offering]))
    game = load_game(str(parcel), samples=2, sequence_length=16, device="cpu")
    tiny_llama_model.lm_head.weight.data *= 8
    assert model_fingerprint(game.model) == model_fingerprint(tiny_llama_model)


def test_one_file_is_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    for name, size in (("one.pth", 30), ("other.pth", 500)):
        (tmp_path / name).write_bytes(bytes(size))
    assert checkpoint_bytes(tmp_path / "one.pth") == 30
    assert checkpoint_bytes(tmp_path) == 530


@dataclasses.dataclass
class Settings:
    width: int


def test_a_config_may_be_a_dataclass_or_missing(tiny_llama_model: LlamaForCausalLM) -> None:
    assert (config_of(tiny_llama_model) or {})["num_hidden_layers"] == 6
    model: Any = nn.Linear(2, 2)
    assert config_of(model) is None
    model.config = Settings(3)
    assert config_of(model) == {"width": 3}
    before = model_fingerprint(model)
    model.config.width = 4
    assert model_fingerprint(model) != before
