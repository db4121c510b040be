"""What becomes of a quantized checkpoint: each method of transformers has a row in the documentation."""

import json
import re
import shutil
from pathlib import Path

import pytest
from transformers.utils.quantization_config import QuantizationMethod

from shapcut.models.loading import load
from shapcut.models.source import ModelSource
from shapcut.support.errors import InputError

PAGE = Path(__file__).parents[3] / "docs" / "quantization.md"


def rows() -> dict[str, str]:
    """The verdict on each method."""
    table = PAGE.read_text(encoding="utf-8").split("| `quant_method` | as MODEL |", 1)[1].split("\n\n", 1)[0]
    found = {}
    for line in table.strip().splitlines()[1:]:
        methods, verdict = line.strip("| ").split(" | ")
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", methods), verdict)
    return found


def test_every_method_of_transformers_has_a_row() -> None:
    # The enumeration, as packages add methods to the mapping when another test imports them.
    assert {method.value for method in QuantizationMethod} <= set(rows())


@pytest.mark.filterwarnings("ignore")  # of the libraries, on their way to a refusal
@pytest.mark.parametrize("method", [name for name, row in rows().items() if row.startswith("refused")])
def test_what_cannot_be_loaded_here_is_refused_in_one_line(
    method: str, tiny_llama_directory: Path, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(tiny_llama_directory, tmp_path / "model"))
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as caught:
        load(ModelSource.find(str(directory), device="cpu"))
    assert "\n" not in str(caught.value)
