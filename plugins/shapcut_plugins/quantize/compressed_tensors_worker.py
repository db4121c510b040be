"""llm-compressor in a separate process, because it keeps a session and patches modules."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from shapcut_plugins.quantize.process import Job, serve


def quantize(job: Job) -> None:
    """Quantize the checkpoint of a job with llm-compressor, and run the result before saving it."""
    import datasets  # noqa: PLC0415 - seconds to import
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme  # noqa: PLC0415
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    options, loader = job.options, AutoModelForCausalLM
    library: Any = import_module("llmcompressor")
    model: Any = loader.from_pretrained(job.source, dtype="auto", local_files_only=True)
    modifiers: dict[str, Any] = {"gptq": GPTQModifier, "rtn": QuantizationModifier}
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(**options["weights"]),
        input_activations=QuantizationArgs(**options["activations"]) if options["activations"] else None,
    )
    rows = job.calibration.tolist()
    library.oneshot(
        model=model,
        processor=AutoTokenizer.from_pretrained(job.source, local_files_only=True),
        dataset=datasets.Dataset.from_dict(
            {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        ),
        recipe=modifiers[options["algorithm"]](config_groups={"group_0": scheme}, ignore=options["ignore"]),
        num_calibration_samples=len(rows),
        max_seq_length=job.calibration.shape[1],
    )
    job.write_logits(model)
    model.save_pretrained(job.target, save_compressed=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), quantize)
