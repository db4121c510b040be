"""Quantizing after a cut, and cutting what is quantized: each with the packages that are installed."""

import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import forked, script
from transformers import LlamaConfig, LlamaForCausalLM

from shapcut.host.host import build_host
from shapcut.support.errors import InputError
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.transformers.adapter import HFDecoderAdapter

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).with_name("quantize_tiny.py")
Found = tuple[dict[str, dict[str, Any]], str]
"""What the script found for each step, and what it wrote to stderr."""

PACKAGES = {
    "auto-gptq:group_size=32": ("auto_gptq", "gptqmodel", "optimum"),
    "auto-gptq:group_size=32,sym=false": ("auto_gptq", "gptqmodel", "optimum"),
    "bitsandbytes:kind=nf4": ("bitsandbytes",),
    "bitsandbytes:kind=int8": ("bitsandbytes",),
    "compressed-tensors:group_size=32": ("llmcompressor", "compressed_tensors"),
    "compressed-tensors:scheme=FP8": ("llmcompressor", "compressed_tensors"),
    "gptq:group_size=32": ("gptqmodel", "optimum"),
    "gptq:group_size=32,sym=false": ("gptqmodel", "optimum"),
    "torchao:kind=int4": ("torchao",),
}


def installed(packages: Sequence[str]) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


CHOSEN = [
    pytest.param(
        spec,
        marks=pytest.mark.skipif(
            not installed(packages),
            reason=f"needs {', '.join(packages)}",
        ),
    )
    for spec, packages in PACKAGES.items()
]


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A checkpoint whose widths groups of 32 divide; not to be changed."""
    directory = tmp_path_factory.mktemp("models") / "wide"
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.06,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(), quiet_libraries():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def found_in(wide_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Found]:
    """What was found for the steps of a library, all in one process.

    Some libraries change the process that they are imported into, and take long to import.
    """

    @functools.cache
    def found(library: str) -> Found:
        place = tmp_path_factory.mktemp(library)
        asked = {spec: packages for spec, packages in PACKAGES.items() if packages[-1] == library}
        specs = [spec for spec, packages in asked.items() if installed(packages)]
        result = forked(script(SCRIPT, wide_llama, place, *specs))
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads((place / "found.json").read_text()), result.stderr

    return found


@pytest.mark.parametrize("spec", CHOSEN)
def test_a_step_and_then_another_cut_of_its_result(spec: str, found_in: Callable[[str], Found]) -> None:
    of_all, errors = found_in(PACKAGES[spec][-1])
    assert spec in of_all, errors[-3000:]
    found = of_all[spec]
    assert found["relative_error"] < 0.6  # a wrong order of packed weights gives more than 1
    assert found["bytes"] < 0.75 * found["bytes_before"]
    assert found["effect"] > 0.01
    assert found["cut_differences"] == {"fast": 0.0, "remove": 0.0, "reload": 0.0}
    assert found["layers"] == [4, 3]
    assert found["bytes_differ"] == []
    assert found["fingerprints"] == 2
    assert found["sym"] == (("sym=false" not in spec) if "gptq" in spec else None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gptq:bits=3", "bits=3 is not supported; use one of 2, 4, 8"),
        ("gptq:group_size=48", "group_size=48 is not supported"),
        ("gptq:samples=0", "samples=0 is not positive"),
        ("auto-gptq:bits=5", "bits=5 is not supported"),
        ("compressed-tensors:scheme=W5A5", "scheme='W5A5'"),
        ("compressed-tensors:scheme=W8A8,group_size=64", "group_size=64 is unavailable with scheme=W8A8"),
        ("compressed-tensors:scheme=FP8,group_size=64", "group_size=64 is unavailable with scheme=FP8"),
        ("torchao:kind=int8,group_size=32", "group_size=32 is for kind=int4"),
        ("bitsandbytes:kind=int8,double_quant=true", "double_quant=True is for 4 bits"),
    ],
)
def test_options_that_nobody_supports_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_host().postprocessors.create(spec)


@pytest.mark.parametrize(
    ("spec", "caveats"),
    [
        ("gptq", []),
        ("gptq:bits=8,desc_act=true,group_size=-1", []),
        ("gptq:bits=2", ["vLLM 0.32 does not load GPTQ with bits=2; use 4 or 8"]),
        ("auto-gptq:sym=false", ["vLLM 0.32 does not load GPTQ with sym=false"]),
        (
            "gptq:desc_act=true",
            ["vLLM 0.32 does not load GPTQ with desc_act=true with groups; use group_size=-1"],
        ),
        ("compressed-tensors", []),
        (
            "compressed-tensors:scheme=W3A16",
            ["vLLM 0.32 loads W3A16 only on an NVIDIA GPU with the package humming"],
        ),
        ("compressed-tensors:scheme=FP8", []),
        ("bitsandbytes", ["vLLM 0.32 does not load bitsandbytes checkpoints"]),
        ("torchao", []),
    ],
)
def test_what_an_engine_does_not_load_is_a_caveat(spec: str, caveats: list[str]) -> None:
    assert list(build_host().postprocessors.create(spec).caveats) == caveats


@pytest.mark.parametrize(
    "name", ["gptq", "auto-gptq", "compressed-tensors", "torchao:kind=int4,group_size=64"]
)
def test_widths_that_groups_do_not_divide_are_refused(
    name: str, tiny_llama_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shapcut_plugins.quantize.base.require_packages", lambda *_: None)
    step: Any = build_host().postprocessors.create(name)
    with pytest.raises(InputError, match=r"group_size=64 does not divide the 32 inputs .*; use one of 16"):
        step.check(tiny_llama_model, HFDecoderAdapter())


def test_a_missing_package_is_named(tiny_llama_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    step: Any = build_host().postprocessors.create("gptq")
    with pytest.raises(InputError, match=r"gptq needs the package gptqmodel, .*shapcut\[gptq\]"):
        step.check(tiny_llama_model, HFDecoderAdapter())


@pytest.mark.parametrize("name", ["gptq", "auto-gptq", "compressed-tensors", "torchao", "bitsandbytes"])
def test_every_command_that_installs_a_quantizer_keeps_the_known_versions(
    name: str, tiny_llama_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    step: Any = build_host().postprocessors.create(name)
    with pytest.raises(InputError, match="is not installed: pip install") as raised:
        step.check(tiny_llama_model, HFDecoderAdapter())
    commands = str(raised.value).partition(": pip ")[2].split(" && ")
    assert all(command.endswith(" -c constraints.txt") for command in commands)


def test_auto_gptq_says_that_its_own_entry_needs_cuda(
    tiny_llama_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shapcut_plugins.quantize.base.require_packages", lambda *_: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    step: Any = build_host().postprocessors.create("auto-gptq:entry=package,group_size=32")
    with pytest.raises(InputError, match="entry=package needs CUDA"):
        step.check(tiny_llama_model, HFDecoderAdapter())
