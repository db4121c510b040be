"""Models wrapped for lm-evaluation-harness; imported only if that package is installed."""

from collections.abc import Iterator, Sequence
from inspect import signature
from itertools import groupby
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from shapcut.models.adapter import Adapter
from shapcut.support.errors import InputError
from shapcut.support.progress import Reporter

BATCH_SIZE = 8
BATCH_TOKENS = 1024
"""Rows form batches of at least `BATCH_SIZE`, and of more as long as they have no more tokens than this."""

MAX_LENGTH = 2048
"""Tokens per call for a model without a known limit, as in the harness's own classes."""

_FIRST_TRY = 32
_MAX_NEW_TOKENS = 256

Pair = tuple[tuple[str, str], list[int], list[int]]
"""A request's texts, its context tokens and its continuation tokens."""


def harness_model(adapter: Adapter, model: nn.Module, tokenizer: Any, reporter: Reporter) -> Any:
    """Wrap a model: in the harness's own class for transformers models, else in `AdapterLM`."""
    own = adapter.library == "transformers" and isinstance(model, PreTrainedModel)
    if own and isinstance(tokenizer, PreTrainedTokenizerBase):
        return TransformersLM(adapter, model, tokenizer, reporter)
    return AdapterLM(adapter, model, tokenizer, reporter)


class _Likelihoods:
    """Answers requests for likelihoods, and computes logits only where a continuation is asked for.

    Requests that differ in their last token alone share a row. Rows of equal length form a batch, so nothing
    is padded.

    Attributes:
        padded: let rows of different lengths form a batch: they are padded at the end, which a causal model's
            earlier tokens do not see. Fewer batches, and other last bits.
    """

    padded: bool
    max_length: int
    _adapter: Adapter
    _model: nn.Module
    _reporter: Reporter

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **_options: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each continuation, and whether greedy decoding gives it."""
        del disable_tqdm
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        rows = [tuple((*context, *asked)[-self.max_length - 1 :]) for _, context, asked in requests]
        sharing: dict[tuple[int, ...], list[int]] = {}
        for place, row in enumerate(rows):
            sharing.setdefault(row[:-1], []).append(place)
        lengths = [min(len(asked), len(row) - 1) for (_, _, asked), row in zip(requests, rows, strict=True)]
        done = 0
        with self._reporter.counting("answering, requests", len(requests)) as count:
            for batch in self._batches(list(sharing)):
                first = min(len(row) - max(lengths[place] for place in sharing[row]) for row in batch)
                logits = self._logits(batch, first)
                for row, values in zip(batch, logits, strict=True):
                    for place in sharing[row]:
                        wanted = values[len(row) - lengths[place] - first : len(row) - first]
                        found[place] = _likelihood(wanted, torch.tensor(rows[place][-lengths[place] :]))
                    done += len(sharing[row])
                count(done)
        return found

    def _batches(self, rows: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """The rows in batches, the longest first."""
        ordered = sorted(rows, key=len, reverse=True)
        for _, same in groupby(ordered, key=lambda row: self.padded or len(row)):
            batches = list(same)
            while batches:
                size = max(BATCH_SIZE, BATCH_TOKENS // max(1, len(batches[0])))
                yield batches[:size]
                batches = batches[size:]

    def _logits(self, rows: Sequence[tuple[int, ...]], first: int) -> torch.Tensor:
        """Logits from position ``first`` on, shape (rows, positions, vocabulary)."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        ids = ids.to(self._adapter.input_device(self._model))
        forward = self._model.forward
        if self._adapter.library == "transformers" and "logits_to_keep" in signature(forward).parameters:
            with torch.no_grad():
                last: torch.Tensor = self._model(
                    input_ids=ids, use_cache=False, logits_to_keep=longest - first
                ).logits
            return last
        return self._adapter.logits(self._model, ids)[:, first:]


class TransformersLM(_Likelihoods, HFLM):  # type: ignore[misc]  # the package has no types
    """The harness's own class for transformers models, with shapcut's progress."""

    padded = True

    def __init__(self, adapter: Adapter, model: Any, tokenizer: Any, reporter: Reporter) -> None:
        HFLM.__init__(self, pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=BATCH_SIZE)
        self._adapter = adapter
        self._reporter = reporter

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As the harness does it."""
        del disable_tqdm
        with self._reporter.working(f"answering {len(requests)} requests by generation"):
            return super().generate_until(requests, disable_tqdm=True)


class AdapterLM(_Likelihoods, TemplateLM):  # type: ignore[misc]  # the package has no types
    """A model run through its adapter.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        tokenizer: the model's.
        reporter: told how many requests are answered.
        padded: let rows of different lengths form a batch.
    """

    def __init__(
        self, adapter: Adapter, model: nn.Module, tokenizer: Any, reporter: Reporter, *, padded: bool = False
    ) -> None:
        TemplateLM.__init__(self)
        self.padded = padded
        self._adapter = adapter
        self._model = model
        self.tokenizer = tokenizer
        self._reporter = reporter
        limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        self.max_length = limit or MAX_LENGTH

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; 0 if the tokenizer has none, as in RWKV's World vocabulary."""
        for name in ("eos_token_id", "bos_token_id"):
            if (found := getattr(self.tokenizer, name, None)) is not None:
                return int(found)
        return 0

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_options: Any) -> list[int]:
        """Token ids; special tokens by default as the tokenizer adds them."""
        special = True if add_special_tokens is None else add_special_tokens
        return list(self.tokenizer(string, add_special_tokens=special)["input_ids"])

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of whole texts, read in disjoint windows."""
        del disable_tqdm
        windows: list[Pair] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            (text,) = request.args
            for window in get_rolling_token_windows(
                self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                context, continuation = make_disjoint_window(window)
                windows.append((("", text), context, continuation))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (nats, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += nats
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to a stop text; long ones are generated only if a short one has no stop.

        Raises:
            InputError: if the tokenizer cannot decode, or a task asks for samples.
        """
        del disable_tqdm
        if not hasattr(self.tokenizer, "decode"):
            raise InputError("the task needs text, but this model's tokenizer cannot decode")
        found = []
        with self._reporter.counting("answering by generation, requests", len(requests)) as count:
            for done, request in enumerate(requests, start=1):
                found.append(self._continuation(*request.args))
                count(done)
        return found

    def _continuation(self, context: str, options: dict[str, Any]) -> str:
        if options.get("do_sample") and options.get("temperature", 1.0) > 0:
            raise InputError("a task asks for sampled text; this model decodes greedily only")
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        most = int(options.get("max_gen_toks", _MAX_NEW_TOKENS))
        ids = self.tok_encode(context)[-max(1, self.max_length - most) :] or [self.prefix_token_id]
        for length in dict.fromkeys((min(_FIRST_TRY, most), most)):
            text, ended = self._generated(ids, length, stops)
            if ended:
                break
        return text

    def _generated(self, ids: list[int], length: int, stops: Sequence[str]) -> tuple[str, bool]:
        """``length`` further tokens as text up to the first stop, and whether there was one."""
        device = self._adapter.input_device(self._model)
        prompt = torch.tensor([ids], device=device)
        new = self._adapter.generate(self._model, prompt, length, use_cache=True)[0, len(ids) :].tolist()
        ended = self.eot_token_id in new
        if ended:
            new = new[: new.index(self.eot_token_id)]
        text = str(self.tokenizer.decode(new))
        ends = [text.index(stop) for stop in stops if stop and stop in text]
        return (text[: min(ends)], True) if ends else (text, ended)


def _likelihood(logits: torch.Tensor, asked: torch.Tensor) -> tuple[float, bool]:
    """The pair for tokens (length,) under logits (length, vocabulary)."""
    asked = asked.to(logits.device)
    nats = logits.float().log_softmax(dim=-1).gather(-1, asked[:, None])
    return float(nats.double().sum()), bool((logits.argmax(dim=-1) == asked).all())
