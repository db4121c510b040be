"""A checkpoint of the mamba-ssm package through the command line."""

import json

import pytest
import torch

from shapcut.cli.main import run
from shapcut_adapters.mamba_ssm.checkpoint import save_model
from shapcut_adapters.mamba_ssm.examples import EXAMPLES, tiny_model
from shapcut_adapters.mamba_ssm.package import import_mamba_ssm

OPTIONS = ["--samples", "2", "--sequence-length", "16", "--finalist-samples", "2", "--held-out-samples", "2"]


@pytest.fixture(scope="module", params=["mamba", "mamba2-attention-mlp"])
def directory(request, tmp_path_factory, tokenizer):
    directory = tmp_path_factory.mktemp("models") / request.param
    directory.mkdir()
    model, _ = tiny_model({**EXAMPLES[request.param], "vocab_size": 304}, 0)
    save_model(model, directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_inspect(directory, capsys):
    assert run(["inspect", str(directory), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["adapter"] == "mamba-ssm"
    assert len(found["players"]) == 6


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the package leaves it to the collector
def test_prune_and_evaluate(directory, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["prune", str(directory), "--out", str(out), "--remove", "2", "--budget", "20", *OPTIONS]
    assert run([*command, "--no-mend"]) == 0
    plan = json.loads((out / "plan.json").read_text())
    config = json.loads((out / "config.json").read_text())
    assert len(plan["removed"]) == 2
    assert config["n_layer"] == 4
    card = (out / "README.md").read_text()
    assert "library_name: mamba-ssm" in card
    assert "MambaLMHeadModel.from_pretrained" in card

    theirs = import_mamba_ssm().MambaLMHeadModel
    tokens = torch.arange(2, 22)[None]
    with torch.no_grad():
        original, pruned = (theirs.from_pretrained(str(path)).eval() for path in (directory, out))
        for index in sorted(plan["removed"], reverse=True):
            del original.backbone.layers[index]
        torch.testing.assert_close(pruned(tokens).logits, original(tokens).logits)

    capsys.readouterr()
    options = ["--held-out-samples", "2", "--sequence-length", "16", "--json"]
    assert run(["evaluate", str(out), *options]) == 0
    assert json.loads(capsys.readouterr().out)["perplexity"]["perplexity"] > 1


def test_a_directory_without_a_tokenizer_is_refused_before_any_work(tmp_path, capsys):
    model, _ = tiny_model({}, 0)
    save_model(model, tmp_path)
    assert run(["inspect", str(tmp_path)]) == 2
    assert "has no tokenizer: put the tokenizer.json" in " ".join(capsys.readouterr().err.split())
