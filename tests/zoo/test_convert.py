"""Models of the zoo written for other libraries compute there what they compute here."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES
from convert import convert
from torch import Tensor

from shapcut.support.errors import InputError
from shapcut.support.quiet import quiet_libraries
from shapcut_adapters.mamba_ssm.checkpoint import load_model

COMMON = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3}
TINY: dict[str, dict[str, Any]] = {
    "rwkv4": {"intermediate_size": 40, "context_length": 64, "rescale_every": 0},
    "rwkv7": {
        "head_dim": 8,
        "intermediate_size": 40,
        "decay_low_rank_dim": 6,
        "a_low_rank_dim": 5,
        "v_low_rank_dim": 4,
        "gate_low_rank_dim": 7,
    },
    "mamba": {"state_size": 4, "expand": 2, "time_step_rank": 3, "tie_word_embeddings": True},
    "mamba2": {
        "state_size": 8,
        "expand": 2,
        "num_heads": 4,
        "head_dim": 16,
        "n_groups": 2,
        "chunk_size": 8,
        "tie_word_embeddings": True,
    },
}
PACKAGE_SCRIPT = """
import os, sys
from shapcut_adapters.mamba_ssm.checkpoint import load_model
os.environ["RWKV_V7_ON"] = sys.argv[3]
import torch
from rwkv.model import RWKV
model = RWKV(model=sys.argv[1] + "/model", strategy="cpu fp32")
rows = [model.forward(row, None, full_output=True)[0] for row in torch.load(sys.argv[2]).tolist()]
torch.save(torch.stack(rows), sys.argv[2])
"""


def stored(name: str, directory: Path, **changes: Any) -> Any:
    """A tiny random model, saved."""
    config = {**COMMON, **TINY[name], **changes}
    model = ARCHITECTURES[name].build(config, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    with quiet_libraries():
        model.save_pretrained(directory)
    return model


def some_tokens() -> Tensor:
    return torch.randint(COMMON["vocab_size"], (2, 11), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits_of(model: Any, tokens: Tensor) -> Tensor:
    with quiet_libraries():
        logits: Tensor = model(tokens, use_cache=False).logits
    return logits


@pytest.mark.parametrize("name", ["rwkv4", "rwkv7"])
def test_the_rwkv_package_computes_the_same(name: str, tmp_path: Path) -> None:
    model, tokens = stored(name, tmp_path / "model"), some_tokens()
    convert(tmp_path / "model", tmp_path / "converted")
    exchanged = tmp_path / "exchanged.pt"
    torch.save(tokens, exchanged)
    arguments = [str(tmp_path / "converted"), str(exchanged), str(int(name == "rwkv7"))]
    subprocess.run([sys.executable, "-c", PACKAGE_SCRIPT, *arguments], check=True, capture_output=True)
    expected = logits_of(model, tokens)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(
        torch.load(exchanged), expected, rtol=0, atol=2e-5 * float(expected.abs().max())
    )


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_mamba_ssm_computes_the_same(name: str, tmp_path: Path) -> None:
    model, tokens = stored(name, tmp_path / "model"), some_tokens()
    convert(tmp_path / "model", tmp_path / "converted")
    other = load_model(tmp_path / "converted", device=torch.device("cpu"), dtype=None)
    with torch.no_grad():
        found = other(tokens).logits
    expected = logits_of(model, tokens)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_what_the_other_library_cannot_express_is_refused(tmp_path: Path) -> None:
    stored("rwkv7", tmp_path / "model", norm_eps=1e-3)
    with pytest.raises(InputError, match=r"epsilon is 0\.001"):
        convert(tmp_path / "model", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_another_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="known are rwkv, rwkv7, mamba, mamba2"):
        convert(tmp_path, tmp_path / "converted")
