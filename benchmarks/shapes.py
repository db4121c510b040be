"""Cut published config shapes at random places, write and reload them; results in results/shapes.json.

The values are those of published config.json files, or the defaults that transformers documents with a
checkpoint; only widths, windows and numbers of experts are small. The reference is a bypass of its own in
plain transformers.
"""

import json
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "shapes"))

import torch  # noqa: E402 - after the path

from shapcut.support.files import write_json_atomically  # noqa: E402
from shapcut.support.quiet import one_line, quiet_libraries  # noqa: E402
from shapes import SHAPES, try_shape  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "shapes.json"


def row(name: str) -> dict[str, object]:
    """What came of one shape."""
    known = {"model_type": SHAPES[name]["config"]["model_type"], "source": SHAPES[name]["source"]}
    try:
        with quiet_libraries():
            found = try_shape(name)
    except Exception as error:  # noqa: BLE001 - whatever keeps a shape from being tried is its verdict
        return {**known, "verdict": f"not tried: {one_line(error)[:120]}"}
    return {
        **known,
        "verdict": "exact" if found.exact else "differs",
        "layers": found.layers,
        "removed": list(found.removed),
        "effect": found.effect,
        "difference": found.difference,
    }


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(SHAPES)
    rows = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    for name in chosen:
        started = time.perf_counter()
        rows[name] = row(name)
        print(f"{name}: {rows[name]['verdict']}, {time.perf_counter() - started:.1f} s", flush=True)
        write_json_atomically(RESULT, {name: rows[name] for name in SHAPES if name in rows})


if __name__ == "__main__":
    main()
