"""transformers, of one prompt at a time."""

import statistics
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities, greedy tokens and speed of a model."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = _loaded(request)
    model.generation_config = GenerationConfig()  # no end token, beams or penalties of the checkpoint's own
    with torch.inference_mode():
        return {
            "version": transformers.__version__,
            "prompts": [_prompt_answer(model, prompt, request) for prompt in request["prompts"]],
            **_speed(model, request),
        }


def _loaded(request: dict[str, Any]) -> Any:
    path = Path(request["model"])
    options: dict[str, Any] = {"trust_remote_code": request["trust_remote_code"]}
    where: Any = path
    if path.is_file():
        where, options["gguf_file"] = path.parent, path.name
    config = AutoConfig.from_pretrained(where, **options)
    for name, value in request["config"].items():
        setattr(config, name, value)
    quantized = getattr(config, "quantization_config", None) is not None
    dtype = request["dtype"] if not quantized else "auto"
    model = AutoModelForCausalLM.from_pretrained(where, config=config, dtype=dtype, **options)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _prompt_answer(model: Any, prompt: list[int], request: dict[str, Any]) -> dict[str, Any]:
    ids = torch.tensor([prompt], device=model.device)
    known = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    written = _generated(model, ids, request["new_tokens"], request["cached"])
    likeliest = [scores[0].float().log_softmax(-1).topk(request["top"]) for scores in written.logits]
    return {
        "log_probabilities": known.gather(1, ids[0, 1:, None])[:, 0].tolist(),
        "greedy": written.sequences[0, len(prompt) :].tolist(),
        "likeliest": [
            dict(zip(map(str, top.indices.tolist()), top.values.tolist(), strict=True)) for top in likeliest
        ],
    }


def _generated(model: Any, ids: torch.Tensor, new_tokens: int, cached: bool) -> Any:
    return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        use_cache=cached,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )


def _speed(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Medians of tokens a second; empty if nothing is to be timed."""
    prompt, new_tokens = request["timed_prompt"], request["timed_tokens"]
    if not request["repeats"]:
        return {}
    ids = torch.tensor([prompt], device=model.device)
    _generated(model, ids, 2, cached=True)
    firsts, others = [], []
    for _ in range(request["repeats"]):
        begin = time.perf_counter()
        _generated(model, ids, 1, cached=True)
        firsts.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        _generated(model, ids, new_tokens + 1, cached=True)
        others.append(time.perf_counter() - begin)
    first, every = statistics.median(firsts), statistics.median(others)
    return {
        "prompt_tokens_per_second": len(prompt) / first,
        "decode_tokens_per_second": new_tokens / (every - first) if every > first else None,
    }
