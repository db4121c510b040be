"""Tiny checkpoints that are built in code, shared by all tests."""

import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
)

from shapcut.game.coalitions import Player
from shapcut.game.granularity import Granularity
from shapcut.measurement.latency import LatencyResult, latency
from shapcut.measurement.writing import written
from shapcut.models.adapter import Adapter
from shapcut.support.quiet import quiet_libraries

BOS, EOS = "<s>", "</s>"
VOCABULARY = 300

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of long tests first."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Keep the garbage collector away from what was imported: a full collection costs a tenth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def brief_latency() -> Iterator[None]:
    """Measure latency on few tokens, once: no test of a whole run is about the figures."""

    def brief(*which: Any, **options: Any) -> LatencyResult:
        return latency(*which, **options | {"prompt_tokens": 4, "new_tokens": 2, "repeats": 1})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shapcut.measurement.measure.latency", brief)
        yield


@pytest.fixture(scope="session", autouse=True)
def brief_writing() -> Iterator[None]:
    """Let models continue texts by two tokens: a quarter of the time of a small run went into 24."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shapcut.measurement.measure.written", partial(written, new_tokens=2))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Leave written files to the operating system: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


def stage_documentation(directory: Path, tokenizer: Any, *names: str, layers: int) -> None:
    """Lay out what code of the documentation starts from: random checkpoints and a text."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    with quiet_libraries():
        for name in names:
            LlamaForCausalLM(config).save_pretrained(directory / name)
            tokenizer.save_pretrained(directory / name)
    (directory / "text.txt").write_text("".join(f"Line {number} of a text.\n" for number in range(900)))


def byte_tokens() -> list[str]:
    """Two special tokens and one token a byte, so that any text can be encoded."""
    return [BOS, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]


def byte_tokenizer(*, with_bos: bool) -> Any:
    """A tokenizer with one token a byte."""
    vocabulary = {token: number for number, token in enumerate(byte_tokens())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if with_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Six random layers, wide enough that every layer changes the output."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)


class LlamaAdapter(Adapter):
    """The least that an adapter can be, for one kind of model; all else is the contract's defaults."""

    name = "tiny-llama"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, LlamaForCausalLM)

    def players(self, model: Any, granularity: Granularity = "block") -> tuple[Player, ...]:
        return tuple(
            Player(index, f"model.layers.{index}", "block", sum(p.numel() for p in layer.parameters()))
            for index, layer in enumerate(model.model.layers)
        )

    @contextmanager
    def bypass(
        self, model: Any, present: Collection[int], granularity: Granularity = "block"
    ) -> Iterator[None]:
        layers = model.model.layers
        model.model.layers = nn.ModuleList(layers[index] for index in sorted(present))
        try:
            yield
        finally:
            model.model.layers = layers

    def remove(self, model: Any, absent: Collection[int], granularity: Granularity = "block") -> nn.Module:
        kept = [layer for index, layer in enumerate(model.model.layers) if index not in absent]
        for index, layer in enumerate(kept):
            layer.self_attn.layer_idx = index
        model.model.layers = nn.ModuleList(kept)
        model.config.num_hidden_layers = len(kept)
        return model  # type: ignore[no-any-return]

    def example(self, seed: int) -> tuple[nn.Module, torch.Tensor]:
        return tiny_llama(seed), torch.arange(2, 22)[None]


@pytest.fixture(scope="session")
def llama_adapter() -> Adapter:
    """An adapter for `tiny_llama` that depends on no adapter package."""
    return LlamaAdapter()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """One token a byte, no BOS."""
    return byte_tokenizer(with_bos=False)


@pytest.fixture(scope="session")
def bos_tokenizer() -> Any:
    """One token a byte, BOS put before every text."""
    return byte_tokenizer(with_bos=True)


@pytest.fixture
def tiny_llama_model() -> LlamaForCausalLM:
    """A model of its own for each test."""
    return tiny_llama()


@pytest.fixture(scope="session")
def tiny_llama_directory(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A saved checkpoint with its tokenizer; not to be changed."""
    directory = tmp_path_factory.mktemp("models") / "tiny-llama"
    with quiet_libraries():
        tiny_llama().save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_bert_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved encoder; not to be changed."""
    directory = tmp_path_factory.mktemp("models") / "tiny-bert"
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    with quiet_libraries():
        BertForMaskedLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_t5_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of an encoder-decoder; not to be changed."""
    directory = tmp_path_factory.mktemp("models") / "tiny-t5"
    with quiet_libraries():
        T5Config().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `tiny_llama` in a GGUF file of fp32, with a tokenizer; not to be changed."""
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny-llama.gguf")


def write_tiny_gguf(path: Path, split: int = 0) -> Path:
    """Write `tiny_gguf_file`, or its parts of ``split`` tensors each; return the file or the first part."""
    model = tiny_llama()
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    write_gguf_header(writer, model.config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        head_count = next((count for part, count in heads.items() if part in name), None)
        array = weight.numpy()
        stored = array if head_count is None else interleave_rotary_halves(array, head_count)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"), default=path)


def interleave_rotary_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """The row order in which GGUF files keep query and key weights."""
    width = weight.shape[1]
    return np.ascontiguousarray(weight.reshape(heads, 2, -1, width).swapaxes(1, 2).reshape(-1, width))


def write_gguf_header(writer: gguf.GGUFWriter, config: Any, rope_base: float = 10000.0) -> None:
    """The metadata of a decoder and of its byte-level tokenizer."""
    tokens = [*byte_tokens(), "ab"]
    tokens += [f"<unused{number}>" for number in range(config.vocab_size - len(tokens))]
    writer.add_name("Tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope_base)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
