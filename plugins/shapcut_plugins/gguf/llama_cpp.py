"""The perplexity of a GGUF file in llama.cpp, where the package xllamacpp is installed."""

import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shapcut.contracts import VerificationError, read_json, run_child, write_json_atomically

_JOB, _FOUND, _LOG = "llama_cpp.json", "llama_cpp_found.json", "llama_cpp.txt"
_LIKELY = 2000
"""Tokens whose probability is asked for first: answers with a whole vocabulary are long."""


def has_llama_cpp() -> bool:
    """Whether llama.cpp can be asked."""
    return importlib.util.find_spec("xllamacpp") is not None


def perplexity(file: Path, windows: Sequence[Sequence[int]], vocabulary: int, directory: Path) -> float:
    """Of all tokens but the first of each window, in another process, which llama.cpp may end.

    Args:
        file: the GGUF file.
        windows: token ids.
        vocabulary: number of the model's tokens.
        directory: for the process's files.

    Raises:
        VerificationError: if llama.cpp cannot read the file.
    """
    job = {"file": str(file.resolve()), "windows": windows, "vocabulary": vocabulary}
    write_json_atomically(directory / _JOB, job)
    found = directory / _FOUND
    found.unlink(missing_ok=True)
    log = directory / _LOG
    paths = os.pathsep.join(str(Path(place).resolve()) for place in sys.path)
    with log.open("wb") as output:
        run_child(
            "shapcut_plugins.gguf.llama_cpp",
            [str(directory.resolve())],
            directory,
            output=output,
            environment=os.environ | {"PYTHONPATH": paths},
        )
    if not found.is_file():
        raise VerificationError(f"llama.cpp cannot read the written {file.name}: see {log}")
    return float(read_json(found)["perplexity"])


def _measure(directory: Path) -> None:
    job = read_json(directory / _JOB)
    windows = job["windows"]
    server = _server(job["file"], max(map(len, windows)))
    forced = _printable(server, windows)
    losses = [
        -_log_probability(server, window[:place], window[place], job["vocabulary"], forced)
        for window in windows
        for place in range(1, len(window))
    ]
    write_json_atomically(directory / _FOUND, {"perplexity": math.exp(sum(losses) / len(losses))})


def _server(file: str, length: int) -> Any:
    import xllamacpp  # noqa: PLC0415 - optional

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel, params.n_gpu_layers = max(256, 2 * length), 1, 0
    params.swa_full = True  # else a cache of sliding windows is dropped between two requests
    params.fit_params = params.warmup = False
    params.verbosity = 0
    return xllamacpp.Server(params)


def _printable(server: Any, windows: list[list[int]]) -> int:
    """A token to answer with: llama.cpp gives no probabilities beside one that is no text of its own."""
    for token in dict.fromkeys(token for window in windows for token in window):
        if _likeliest(server, windows[0][:1], 1, token):
            return token
    raise ValueError("llama.cpp gives no probabilities")


def _log_probability(server: Any, before: list[int], token: int, vocabulary: int, forced: int) -> float:
    for count in (min(_LIKELY, vocabulary), vocabulary):
        for one in _likeliest(server, before, count, forced):
            if one["id"] == token:
                return float(one["logprob"])
    raise ValueError(f"llama.cpp gives no probability of the token {token}")


def _likeliest(server: Any, before: list[int], count: int, forced: int) -> list[dict[str, Any]]:
    """The likeliest next tokens, before any bias; the answer itself is always ``forced``."""
    request = {"prompt": before, "max_tokens": 1, "temperature": 0.0, "cache_prompt": True}
    answer = server.handle_completions(
        request | {"logprobs": count, "n_probs": count, "logit_bias": [[forced, 1000.0]]}
    )
    found = answer["choices"][0]["logprobs"]
    return list(found["content"][0]["top_logprobs"]) if found else []


if __name__ == "__main__":
    _measure(Path(sys.argv[1]))
