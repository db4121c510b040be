"""A quantizer's process that is killed fails its step in one line, and the step can be begun again."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shapcut.game.plan import RemovalPlan
from shapcut.models.adapter import Adapter
from shapcut.steps.step import StepContext
from shapcut.support.child import has_child
from shapcut.support.errors import ShapcutError
from shapcut_plugins.quantize.process import quantized_elsewhere

STAND_IN = """
import os, signal, sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from shapcut_plugins.quantize.process import serve

def quantize(job):
    def reached(moment):
        if job.options["killed"] == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    reached("begun")
    weights = load_file(job.source / "model.safetensors")
    job.target.mkdir()
    (job.target / "config.json").write_bytes((job.source / "config.json").read_bytes())
    reached("half written")
    save_file(weights, job.target / "model.safetensors")
    reached("written")

serve(Path(sys.argv[1]), quantize)
"""


@pytest.mark.parametrize("moment", ["begun", "half written", "written"])
def test_a_killed_quantizer_leaves_a_step_that_can_be_begun_again(
    moment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    llama_adapter: Adapter,
    tiny_llama_model: Any,
) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    work = tmp_path / "work"
    work.mkdir()
    context = StepContext(
        adapter=llama_adapter,
        plan=RemovalPlan.removing([0], 6),
        calibration=torch.arange(8)[None],
        tokenizer=None,
        directory=work,
        seed=0,
    )
    with pytest.raises(ShapcutError, match=r"stand_in failed: status -9 \(see .*log\.txt\)"):
        quantized_elsewhere("stand_in", tiny_llama_model, {"killed": moment}, context)
    assert not has_child(work)
    target = quantized_elsewhere("stand_in", tiny_llama_model, {"killed": "never"}, context)
    found, wanted = load_file(target / "model.safetensors"), tiny_llama_model.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "model.safetensors"]
