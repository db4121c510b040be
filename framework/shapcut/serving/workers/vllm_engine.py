"""vLLM, in this process."""

import os
import statistics
import time
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # else its memory is another process's
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import vllm
from vllm import LLM, SamplingParams, TokensPrompt  # needs the variables above


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities, greedy tokens and speed of a model."""
    model = _loaded(request)
    return {
        "version": vllm.__version__,
        "prompts": _prompt_answers(model, request),
        **_speed(model, request),
    }


def _loaded(request: dict[str, Any]) -> LLM:
    longest = max(map(len, [*request["prompts"], request["timed_prompt"]]))
    return LLM(
        model=request["model"],
        skip_tokenizer_init=True,
        dtype=request["dtype"],
        trust_remote_code=request["trust_remote_code"],
        max_model_len=longest + max(request["new_tokens"], request["timed_tokens"]) + 1,
        max_num_seqs=max(len(request["prompts"]), 1),
        max_logprobs=request["top"],
        enable_prefix_caching=False,
        enforce_eager=True,
        disable_log_stats=True,
        seed=0,
    )


def _generated(model: LLM, prompts: list[list[int]], new_tokens: int, **options: Any) -> list[Any]:
    parameters = SamplingParams(
        temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False, **options
    )
    asked = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
    return list(model.generate(asked, parameters, use_tqdm=False))


def _prompt_answers(model: LLM, request: dict[str, Any]) -> list[dict[str, Any]]:
    top = request["top"]
    outputs = _generated(model, request["prompts"], request["new_tokens"], logprobs=top, prompt_logprobs=0)
    return [
        {
            "log_probabilities": [
                found[token].logprob
                for token, found in zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
            ],
            "greedy": list(output.outputs[0].token_ids),
            "likeliest": [
                {str(token): one.logprob for token, one in found.items()}
                for found in output.outputs[0].logprobs
            ],
        }
        for prompt, output in zip(request["prompts"], outputs, strict=True)
    ]


def _speed(model: LLM, request: dict[str, Any]) -> dict[str, Any]:
    """Medians of tokens a second; empty if nothing is to be timed."""
    prompt, new_tokens = request["timed_prompt"], request["timed_tokens"]
    if not request["repeats"]:
        return {}
    _generated(model, [prompt], 2)
    firsts, others = [], []
    for _ in range(request["repeats"]):
        begin = time.perf_counter()
        _generated(model, [prompt], 1)
        firsts.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        _generated(model, [prompt], new_tokens + 1)
        others.append(time.perf_counter() - begin)
    first, every = statistics.median(firsts), statistics.median(others)
    return {
        "prompt_tokens_per_second": len(prompt) / first,
        "decode_tokens_per_second": new_tokens / (every - first) if every > first else None,
    }
