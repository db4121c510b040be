"""The committed models are what their recipes and measurements say."""

import math
from typing import Any

import pytest
import torch
import yaml
from architectures import ARCHITECTURES
from corpus import corpus_of, model_directory, spread_windows, unigram_perplexity
from measure import LENGTH, held_out_loss
from recurrences import fast_recurrences
from transformers import PreTrainedTokenizerFast

from shapcut.data.text import builtin_text, split_text
from shapcut.data.windows import held_out_tokens
from shapcut.support.quiet import quiet_libraries

MAX_BYTES = 4_000_000
MAX_CPU_SECONDS = 1500
FACTOR = 4
WINDOWS = 24
FILES = {
    "config.json",
    "curve.json",
    "generation_config.json",
    "measurements.json",
    "model.safetensors",
    "recipe.yaml",
    "tokenizer.json",
    "tokenizer_config.json",
}


def read(name: str, file: str) -> Any:
    return yaml.safe_load((model_directory(name) / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_what_its_recipe_says(name: str) -> None:
    recipe, config, curve = read(name, "recipe.yaml"), read(name, "config.json"), read(name, "curve.json")
    assert {path.name for path in model_directory(name).iterdir()} == FILES
    assert recipe["architecture"] == name
    assert config["num_hidden_layers"] == recipe["config"]["num_hidden_layers"] == 12
    assert config["vocab_size"] == recipe["vocabulary"]
    assert (model_directory(name) / "model.safetensors").stat().st_size <= MAX_BYTES
    assert curve[-1]["step"] == recipe["steps"]
    assert curve[-1]["cpu_seconds"] < MAX_CPU_SECONDS


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_beats_token_frequencies_on_text_it_never_saw(name: str) -> None:
    architecture, corpus = ARCHITECTURES[name], corpus_of(model_directory(name))
    with quiet_libraries(), fast_recurrences():
        model = architecture.model_class.from_pretrained(model_directory(name)).eval()
        windows = spread_windows(corpus.held_out, LENGTH, WINDOWS)
        loss = held_out_loss(model, windows)
    assert len(architecture.blocks_of(model)) == 12
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert math.exp(loss) * FACTOR < unigram_perplexity(corpus)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_block_matters_and_none_like_another(name: str) -> None:
    added = read(name, "measurements.json")["loss_added_without_block"]
    assert len(set(added)) == len(added) == 12
    assert min(added) > 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_tokenizer_is_an_ordinary_fast_one(name: str) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_directory(name))
    text = "The *count* method, naïve: 中."
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == read(name, "recipe.yaml")["vocabulary"]


def test_the_held_out_text_is_that_of_shapcut() -> None:
    corpus = corpus_of(model_directory("llama"))
    assert (held_out_tokens("builtin", corpus.tokenizer) == corpus.held_out).all()
    training, held_out = split_text(builtin_text())
    assert corpus.tokenizer.decode(corpus.training) == training
    assert corpus.tokenizer.decode(corpus.held_out) == held_out


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_measurements_are_of_the_file_that_is_there(name: str) -> None:
    size = (model_directory(name) / "model.safetensors").stat().st_size
    assert read(name, "measurements.json")["bytes"] == size
