"""A GGUF file in llama.cpp, through `pip install xllamacpp`: log-probabilities, perplexity and speed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xllamacpp

_MANY = 2000
"""Most likely tokens to ask for first; answers with a whole vocabulary are long."""


class LlamaServer:
    """One model on the CPU.

    Args:
        file: the GGUF file.
        vocabulary: its number of tokens.
        threads: number of threads.
    """

    def __init__(self, file: Path, vocabulary: int, threads: int = 1) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = 1024, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.swa_full = True  # else a cache of sliding windows is dropped between two requests
        params.fit_params = params.warmup = False
        params.verbosity = 0
        self._vocabulary = vocabulary
        self._server = xllamacpp.Server(params)

    def log_probabilities(self, tokens: Sequence[int], count: int | None = None) -> dict[int, float]:
        """Log-probability of the ``count`` likeliest tokens after some others; None: of all."""
        wanted = count or self._vocabulary
        answer = self._complete(tokens, 1, logprobs=wanted, n_probs=wanted)
        content = answer["choices"][0]["logprobs"]["content"][0]
        return {one["id"]: one["logprob"] for one in content["top_logprobs"]}

    def perplexity(self, windows: Sequence[Sequence[int]]) -> float:
        """Of all tokens but the first of each window."""
        losses = [
            -self._log_probability(window[:place], window[place])
            for window in windows
            for place in range(1, len(window))
        ]
        return math.exp(sum(losses) / len(losses))

    def speed(self, prompt: Sequence[int], new_tokens: int) -> dict[str, float]:
        """Tokens a second of reading a prompt and of decoding."""
        timings = self._complete(prompt, new_tokens, cache_prompt=False, ignore_eos=True)["timings"]
        return {"prompt": timings["prompt_per_second"], "decode": timings["predicted_per_second"]}

    def _log_probability(self, before: Sequence[int], token: int) -> float:
        found = self.log_probabilities(before, _MANY)
        return found[token] if token in found else self.log_probabilities(before)[token]

    def _complete(self, tokens: Sequence[int], new_tokens: int, **options: Any) -> dict[str, Any]:
        request = {"prompt": list(tokens), "max_tokens": new_tokens, "temperature": 0.0, "cache_prompt": True}
        answer = self._server.handle_completions(request | options)
        if "choices" not in answer:
            raise RuntimeError(f"llama.cpp answers {answer}")
        return dict(answer)
