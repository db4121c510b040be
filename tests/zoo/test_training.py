"""Training is exactly resumable, and its faster recurrences compute what the models' own do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train as training
from architectures import ARCHITECTURES
from corpus import Corpus, model_directory, new_corpus
from recurrences import fast_recurrences
from safetensors.torch import load_file
from train import Recipe, Training, train

from shapcut.support.quiet import quiet_libraries

SMALL: dict[str, dict[str, Any]] = {
    "mamba": {"num_hidden_layers": 2, "hidden_size": 16, "state_size": 4},
    "rwkv4": {"num_hidden_layers": 2, "hidden_size": 16, "context_length": 32, "rescale_every": 0},
    "rwkv7": {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "head_dim": 8,
        "decay_low_rank_dim": 4,
        "a_low_rank_dim": 4,
        "v_low_rank_dim": 4,
        "gate_low_rank_dim": 4,
    },
}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return new_corpus(300, training_characters=4000)


@pytest.fixture
def recipe() -> Recipe:
    """Three steps of a small Mamba, a checkpoint after each."""
    return replace(
        Recipe.read(model_directory("mamba") / "recipe.yaml"),
        config=SMALL["mamba"],
        vocabulary=300,
        steps=3,
        batch=2,
        sequence_length=12,
        warm_up=1,
        drop_blocks=0.5,
        report_every=2,
        checkpoint_every=1,
    )


class Killed(BaseException):
    """Ends a training at a place of the test's choice."""


def killed_after(saves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next training end right after that checkpoint."""
    save, count = Training.save, []

    def counting(self: Training, *arguments: Any) -> None:
        save(self, *arguments)
        count.append(self.step)
        if len(count) == saves:
            raise Killed

    monkeypatch.setattr(Training, "save", counting)


@pytest.mark.parametrize("saves", [1, 2])
def test_a_killed_training_ends_with_the_same_weights(
    saves: int, recipe: Recipe, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "write_measurements", lambda *_: {"held_out_perplexity": 0})
    with quiet_libraries():
        train(recipe, tmp_path / "whole", corpus)
        with monkeypatch.context() as context:
            killed_after(saves, context)
            with pytest.raises(Killed):
                train(recipe, tmp_path / "killed", corpus)
        train(recipe, tmp_path / "killed", corpus)
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    first = Training.start(recipe).model.state_dict()
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert not any(torch.equal(whole[name], first[name]) for name in whole)
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {path.name for path in (tmp_path / "whole").iterdir()}
    assert "checkpoint.pt" not in names


def test_a_checkpoint_of_another_recipe_is_refused(
    recipe: Recipe, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(1, monkeypatch)
    with pytest.raises(Killed):
        train(recipe, tmp_path, corpus)
    with pytest.raises(SystemExit, match="belongs to another recipe"):
        train(replace(recipe, seed=5), tmp_path, corpus)


def test_a_tokenizer_that_is_there_decides_the_vocabulary(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[Recipe, Corpus]] = []
    monkeypatch.setattr(training, "train", lambda recipe, _, corpus: trained.append((recipe, corpus)))
    corpus.tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", "mamba", "--tokenizer", str(tmp_path)])
    training.main()
    ((recipe, found),) = trained
    assert recipe.vocabulary == len(corpus.tokenizer) == 300
    assert found.tokenizer.get_vocab() == corpus.tokenizer.get_vocab()


@pytest.mark.parametrize("name", SMALL)
def test_fast_recurrences_compute_the_same(name: str) -> None:
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    model: Any = ARCHITECTURES[name].build({"vocab_size": 40, **special, **SMALL[name]}, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.double()
    tokens = torch.randint(1, 40, (2, 9), generator=generator)
    slow = logits_and_gradients(model, tokens)
    with fast_recurrences():
        fast = logits_and_gradients(model, tokens)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5 * float(slow[0].abs().max()))


def logits_and_gradients(model: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Logits, and the gradients of their squares' sum, one after the other."""
    model.zero_grad()
    with quiet_libraries():
        logits = model(tokens, use_cache=False).logits
    logits.square().sum().backward()
    return [logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())]
