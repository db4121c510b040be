"""GPTQModel in a separate process, because importing it replaces kernels of transformers."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from shapcut_plugins.quantize.process import Job, serve


def quantize(job: Job) -> None:
    """Quantize the checkpoint of a job with GPTQModel."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # one worker is less than its loader asks for
    import gptqmodel  # noqa: PLC0415 - after the environment is set

    library, options = gptqmodel, job.options
    builder: Any = library.GPTQModel
    config = library.QuantizeConfig(
        bits=options["bits"],
        group_size=options["group_size"],
        desc_act=options["desc_act"],
        sym=options["sym"],
        device=options["device"],
    )
    model = builder.load(str(job.source), config, dtype=getattr(torch, options["dtype"]))
    samples = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in job.calibration.tolist()]
    model.quantize(samples, batch_size=1)
    model.save(str(job.target))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), quantize)
