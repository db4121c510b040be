"""A cut of each form, reloaded by plain transformers: what it takes, against what was promised.

    python benchmarks/players/forms.py --runs RUNS      # goes on where it stopped

Each set of players of a zoo model is removed by `shapcut apply`. The promise is what targets count with
before the cut: parameters and their bytes, less what the form keeps; the measured cache of each player, and
its measured time. A process without shapcut then loads the checkpoint and the whole model, and counts and
times both in turns, in CPU seconds of one thread. The logits are compared with those of the whole model with
the players bypassed.
"""

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shapcut.cli.main import run
from shapcut.game.coalitions import Player
from shapcut.game.granularity import Granularity
from shapcut.game.mixed import mixed_layers
from shapcut.host.host import build_host
from shapcut.measurement.player_cache import player_caches
from shapcut.measurement.player_latency import player_latencies
from shapcut.pipeline.session import Session, prepare
from shapcut.pipeline.targets import bytes_per_parameter, checkpoint_size
from shapcut.recipe.recipe import make_recipe
from shapcut.support.files import write_json_atomically

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "forms.json"
PROMPT, NEW, CACHED, TURNS = 128, 32, 256, 15

PLAIN = """
import json, statistics, sys, time
import torch
from transformers import AutoModelForCausalLM

given = json.loads(sys.argv[1])
torch.set_num_threads(1)
prompt = torch.tensor([given["prompt"]])

def load(path):
    model, info = AutoModelForCausalLM.from_pretrained(
        path, trust_remote_code=given["code"], output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()

def seconds(model, tokens):
    begin = time.process_time()
    model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return time.process_time() - begin

def phases(model):
    prefill = seconds(model, 1)
    return prefill, (seconds(model, given["new"] + 1) - prefill) / given["new"]

def cache(model):
    state = model(prompt.repeat(1, 2)[:, : given["cached"]], use_cache=True).past_key_values
    tensors = [each for layer in state.layers for each in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

whole, cut = load(given["whole"]), load(given["cut"])
with torch.no_grad():
    phases(whole), phases(cut)
    turns = [
        [after / before for before, after in zip(phases(whole), phases(cut))] for _ in range(given["turns"])
    ]
    torch.save(cut(prompt).logits, given["logits"])
    found = {
        "type": cut.config.model_type,
        "parameters": sum(weight.numel() for weight in cut.parameters()),
        "cache": cache(cut),
        "time": sorted(statistics.mean(turn) for turn in turns),
    }
assert "shapcut" not in sys.modules
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Cut:
    """A set of players of a zoo model.

    Attributes:
        model: its name.
        what: the set in words.
        granularity: what a player is.
        form: the form of checkpoint that it takes.
        layers: layers that go.
        parts: layers whose MoE part goes.
        players: numbers of single players that go.
        experts: experts that go of each other layer.
    """

    model: str
    what: str
    granularity: Granularity
    form: str = "same"
    layers: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()
    players: tuple[int, ...] = ()
    experts: int = 0

    def absent(self, players: Sequence[Player]) -> list[int]:
        """The players that go."""
        if self.granularity in {"block", "sublayer"}:
            return list(self.players)
        if self.granularity == "expert":
            of_layer: dict[int | None, list[int]] = {}
            for player in players:
                of_layer.setdefault(player.group, []).append(player.index)
            return [one for experts in of_layer.values() for one in experts[: self.experts]]
        gone = []
        for place, layer in enumerate(mixed_layers(players)):
            if place in self.layers:
                gone += layer.players
            else:
                gone += layer.mixture if place in self.parts else layer.experts[: self.experts]
        return gone


CUTS = (
    Cut("llama", "3 blocks", "block", players=(3, 6, 8)),
    Cut(
        "llama", "the MLP of a block and the attention of the next, twice", "sublayer", players=(7, 8, 13, 14)
    ),
    Cut("llama", "3 MLPs", "sublayer", "sibling", players=(7, 11, 15)),
    Cut("llama", "4 attentions", "sublayer", "remote-code", players=(6, 10, 14, 18)),
    Cut("mixtral", "2 of 8 experts of each layer", "expert", experts=2),
    Cut("mixtral", "1 block and 2 of 8 experts of each other layer", "mixed", layers=(5,), experts=2),
    Cut("qwen3moe", "4 of 16 experts of each layer", "expert", experts=4),
    Cut("qwen3moe", "3 MoE parts", "mixed", "sibling", parts=(3, 6, 8)),
    Cut(
        "qwen3moe",
        "1 block, 2 MoE parts and 2 of 16 experts of each other layer",
        "mixed",
        "sibling",
        layers=(4,),
        parts=(6, 8),
        experts=2,
    ),
)


def session_of(cut: Cut) -> Session:
    """The loaded model; measured are no coalitions."""
    options = {
        "model": str(ROOT / "zoo" / "models" / cut.model),
        "granularity": cut.granularity,
        "samples": 1,
        "held_out_samples": 1,
        "finalist_samples": 0,
    }
    return prepare(make_recipe(options), build_host(), target=False)


def promised(session: Session, absent: Sequence[int], form: str) -> dict[str, float]:
    """What targets count with before the cut."""
    game, adapter, model = session.game, session.adapter, session.game.model
    total = sum(weight.numel() for weight in model.parameters())
    stays = adapter.remnants(model, absent, game.granularity, form)
    freed = [game.players[player].parameters for player in absent]
    sizes = [bytes_per_parameter(model, game.players[player]) for player in absent]
    caches = player_caches(adapter, model, game.players, game.granularity, length=CACHED)
    shares = player_latencies(
        adapter, model, game.players, game.granularity, prompt_tokens=PROMPT, new_tokens=NEW, repeats=TURNS
    ).shares()
    return {
        "parameters": total - sum(freed) + stays,
        "bytes": checkpoint_size(model)
        - sum(map(float.__mul__, map(float, freed), sizes))
        + stays * sizes[0],
        "cache": caches.total - sum(caches.saved[player] for player in absent),
        "time": 1.0 - sum(shares[player] for player in absent),
    }


def tensor_bytes_of(directory: Path) -> int:
    """The bytes of the tensors in a checkpoint, its files without their headers."""
    files = list(directory.glob("*.safetensors"))
    headers = (8 + int.from_bytes(file.read_bytes()[:8], "little") for file in files)
    return sum(file.stat().st_size for file in files) - sum(headers)


def reloaded(session: Session, out: Path, prompt: Sequence[int], *, code: bool) -> dict[str, Any]:
    """What a process without shapcut finds; the logits are written beside the checkpoint."""
    given = {
        "whole": session.recipe.model,
        "cut": str(out),
        "code": code,
        "prompt": list(prompt),
        "new": NEW,
        "cached": CACHED,
        "turns": TURNS,
        "logits": str(out.with_suffix(".logits")),
    }
    command = [sys.executable, "-I", "-W", "ignore", "-c", PLAIN, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def row(cut: Cut, out: Path) -> dict[str, Any]:
    """One cut: its promise, and what came of it."""
    session = session_of(cut)
    game, adapter = session.game, session.adapter
    absent = cut.absent(game.players)
    kept = sorted(set(range(game.n_players)) - set(absent))
    plan = {"granularity": cut.granularity, "removed": sorted(absent), "kept": kept, "form": cut.form}
    write_json_atomically(out.with_suffix(".plan"), plan)
    command = ["apply", session.recipe.model, "--plan", str(out.with_suffix(".plan")), "--out", str(out)]
    assert run(command) == 0
    assert json.loads((out / "plan.json").read_text())["form"] == cut.form
    prompt = session.held_out.input_ids[:1, :PROMPT]
    found = reloaded(session, out, prompt[0].tolist(), code=cut.form == "remote-code")
    with adapter.bypass(game.model, kept, cut.granularity):
        expected = adapter.logits(game.model, prompt)
    logits = torch.load(out.with_suffix(".logits"))
    effect = float((expected - adapter.logits(game.model, prompt)).abs().max())
    return {
        "model": cut.model,
        "what": cut.what,
        "form": cut.form,
        "promised": promised(session, absent, cut.form),
        "found": {**found, "bytes": tensor_bytes_of(out)},
        "difference": float((logits - expected).abs().max()) / effect,
    }


def main() -> None:
    """Measure what the runs lack, then write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("forms-runs"))
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    given.runs.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    rows = []
    for number, cut in enumerate(CUTS):
        place = given.runs / f"{number}.{cut.model}.{cut.granularity}.{cut.form}.json"
        if not place.exists():
            write_json_atomically(place, row(cut, place.with_suffix("")))
        rows.append(json.loads(place.read_text()))
        print(rows[-1], flush=True)
    content = {
        "command": "python benchmarks/players/forms.py",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "prompt": PROMPT,
        "new": NEW,
        "cached": CACHED,
        "turns": TURNS,
        "rows": rows,
    }
    write_json_atomically(given.out, content)


if __name__ == "__main__":
    main()
