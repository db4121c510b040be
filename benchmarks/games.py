"""Games of the zoo's models with every coalition enumerated: what estimators are judged against.

    python benchmarks/games.py [NAME ...]

Each `results/games/NAME.npz` holds, as float32 and in the order of
`shapcut.game.coalitions.all_coalitions`, the mean log-likelihood of the next token (nats) of all 4,096
coalitions of the model's twelve blocks:
``calibration`` (16 windows of 128 tokens of the part that calibration is drawn from), ``first_half`` and
``second_half`` (every second window of these, and the others) and ``held_out`` (16 windows of the part that
the model was not trained on). A text that is there already is not measured again.
"""

import argparse
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shapcut.game.coalitions import Values, all_coalitions
from shapcut.game.game import FunctionGame
from shapcut.host.host import build_host
from shapcut.pipeline.session import prepare
from shapcut.recipe.recipe import make_recipe

HERE = Path(__file__).parent
ZOO = HERE / "zoo" / "models"
GAMES = HERE / "results" / "games"
TEXTS = ("calibration", "first_half", "second_half", "held_out")
WINDOWS, LENGTH = 16, 128


def enumerated(name: str, text: str = "calibration") -> FunctionGame:
    """The game of a model of the zoo from its file; ``text`` is one of `TEXTS`."""
    table = enumerated_values(name, text)
    digits = 1 << np.arange(len(table).bit_length() - 1)
    return FunctionGame(len(digits), lambda coalitions: table[coalitions @ digits])


def enumerated_values(name: str, text: str) -> Values:
    """The values of all coalitions in the order of `all_coalitions`, shape (4096,)."""
    with np.load(GAMES / f"{name}.npz") as tables:
        return np.asarray(tables[text], dtype=np.float64)


def names() -> list[str]:
    """The models that have been enumerated."""
    return sorted(path.stem for path in GAMES.glob("*.npz"))


def measure(name: str, text: str) -> dict[str, Values]:
    """The values of all coalitions on the calibration text and its halves, or on the held-out text."""
    options = {
        "samples": WINDOWS,
        "sequence_length": LENGTH,
        "held_out_samples": WINDOWS,
        "finalist_samples": 0,
    }
    recipe = make_recipe({"model": str(ZOO / name), "dtype": "float32", "memory_budget": "1GiB", **options})
    session = prepare(recipe, build_host(), target=False)
    game = session.game if text == "calibration" else session.game.on(session.held_out.input_ids)
    found = game.measurements(all_coalitions(game.n_players))
    columns = TEXTS[:3] if text == "calibration" else (text,)
    return dict(zip(columns, found.T, strict=False))


def known(name: str) -> dict[str, NDArray[np.float32]]:
    """What has been measured of a model."""
    path = GAMES / f"{name}.npz"
    if not path.exists():
        return {}
    with np.load(path) as tables:
        return dict(tables)


def main() -> None:
    """Enumerate what the command line names, or every model of the zoo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=sorted(path.name for path in ZOO.iterdir()))
    GAMES.mkdir(parents=True, exist_ok=True)
    chosen = parser.parse_args().names
    for text, name in product(("calibration", "held_out"), chosen):
        if text in known(name):
            continue
        begin = time.monotonic()
        tables = {key: values.astype(np.float32) for key, values in measure(name, text).items()}
        if not all(np.isfinite(values).all() for values in tables.values()):
            sys.exit(f"{name}: a coalition has no finite value")
        np.savez_compressed(GAMES / f"{name}.npz", **known(name), **tables)
        print(f"{name}, {text}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
