"""llama.cpp, through ``pip install xllamacpp``."""

import statistics
from importlib import metadata
from typing import Any

import xllamacpp

_MANY = 300
"""Likeliest tokens to ask for first; an answer with a whole vocabulary is long."""

_SURELY = 1e4
"""Added to the logit of the token that is to come; log-probabilities are those before it is added."""

_ROOM = 64


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities, greedy tokens and speed of a GGUF file."""
    server = _loaded(request)
    return {
        "version": metadata.version("xllamacpp"),
        "prompts": [_prompt_answer(server, prompt, request) for prompt in request["prompts"]],
        **_speed(server, request),
    }


def _loaded(request: dict[str, Any]) -> Any:
    longest = max(map(len, [*request["prompts"], request["timed_prompt"]]))
    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_ctx = longest + max(request["new_tokens"], request["timed_tokens"]) + _ROOM
    params.n_parallel, params.n_gpu_layers = 1, 0
    if request["threads"]:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
    params.swa_full = True  # else a cache of sliding windows is dropped between two requests
    params.fit_params = params.warmup = False
    params.verbosity = 0
    return xllamacpp.Server(params)


def _complete(server: Any, tokens: list[int], new_tokens: int, **options: Any) -> dict[str, Any]:
    request = {
        "prompt": tokens,
        "max_tokens": new_tokens,
        "temperature": 0.0,
        "cache_prompt": True,
        "ignore_eos": True,  # else an end token has no log-probabilities
    }
    found: dict[str, Any] = server.handle_completions(request | options)
    if "choices" not in found:
        raise RuntimeError(f"llama.cpp answers {found}")
    return found


def _likeliest(server: Any, tokens: list[int], count: int, chosen: int) -> dict[int, float]:
    """Log-probabilities of the likeliest next tokens, whichever is chosen; empty if there are none."""
    found = _complete(server, tokens, 1, logprobs=count, n_probs=count, logit_bias=[[chosen, _SURELY]])
    content = (found["choices"][0]["logprobs"] or {}).get("content")
    return {one["id"]: one["logprob"] for one in content[0]["top_logprobs"]} if content else {}


def _whole_token(server: Any, prompt: list[int]) -> int:
    """A token that is text: llama.cpp keeps the log-probabilities at one that is a part of a character."""
    for token in dict.fromkeys(prompt):
        if _likeliest(server, prompt, 1, token):
            return token
    raise RuntimeError("llama.cpp gives no log-probabilities")


def _prompt_answer(server: Any, prompt: list[int], request: dict[str, Any]) -> dict[str, Any]:
    chosen = _whole_token(server, prompt)
    known = []
    for place in range(1, len(prompt)):
        found = _likeliest(server, prompt[:place], _MANY, chosen)
        if prompt[place] not in found:
            found = _likeliest(server, prompt[:place], request["vocabulary"], chosen)
        known.append(found[prompt[place]])
    greedy: list[int] = []
    likeliest = []
    for _ in range(request["new_tokens"]):  # one at a time, so that no end token stops it
        found = _likeliest(server, [*prompt, *greedy], request["top"], chosen)
        greedy.append(max(found, key=lambda token: found[token]))
        likeliest.append({str(token): value for token, value in found.items()})
    return {"log_probabilities": known, "greedy": greedy, "likeliest": likeliest}


def _speed(server: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Medians of tokens a second; empty if nothing is to be timed."""
    if not request["repeats"]:
        return {}
    options = {"cache_prompt": False}
    runs = [
        _complete(server, request["timed_prompt"], request["timed_tokens"] + 1, **options)["timings"]
        for _ in range(request["repeats"] + 1)
    ][1:]
    return {
        "prompt_tokens_per_second": statistics.median(run["prompt_per_second"] for run in runs),
        "decode_tokens_per_second": statistics.median(run["predicted_per_second"] for run in runs),
    }
