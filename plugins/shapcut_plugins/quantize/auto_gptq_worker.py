"""AutoGPTQ's own entry in a separate process; needs CUDA and an older transformers."""

import sys
from pathlib import Path
from typing import Any

import torch

from shapcut_plugins.quantize.process import Job, serve


def quantize(job: Job) -> None:
    """Quantize the checkpoint of a job through the package's own entry, and run the result."""
    import auto_gptq  # noqa: PLC0415 - fails with current transformers

    library, options = auto_gptq, job.options
    entry: Any = library.AutoGPTQForCausalLM
    config = library.BaseQuantizeConfig(
        bits=options["bits"],
        group_size=options["group_size"],
        desc_act=options["desc_act"],
        sym=options["sym"],
    )
    model = entry.from_pretrained(str(job.source), config)
    model.quantize(
        [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in job.calibration]
    )
    model.save_quantized(str(job.target), use_safetensors=True)
    job.write_logits(entry.from_quantized(str(job.target), device=options["device"]).model)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), quantize)
