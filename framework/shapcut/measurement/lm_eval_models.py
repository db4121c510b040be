"""Models wrapped for lm-evaluation-harness; imported only if that package is installed."""

from collections.abc import Callable, Iterator, Sequence
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
        return TransformersLM(model, tokenizer, reporter)
    return AdapterLM(adapter, model, tokenizer, reporter)


class TransformersLM(HFLM):  # type: ignore[misc]  # the package has no types
    """The harness's own class for transformers models, with shapcut's progress."""

    def __init__(self, model: Any, tokenizer: Any, reporter: Reporter) -> None:
        super().__init__(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=BATCH_SIZE)
        self._reporter = reporter
        self._count: Callable[[int], None] | None = None
        self._done = 0

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, **options: Any) -> Any:
        del disable_tqdm
        with self._reporter.counting("answering, requests", len(requests)) as count:
            self._count, self._done = count, 0
            found = super()._loglikelihood_tokens(requests, disable_tqdm=True, **options)
        self._count = None
        return found

    def _model_call(self, inps: Any, *arguments: Any, **options: Any) -> Any:
        logits = super()._model_call(inps, *arguments, **options)
        self._done += len(inps)
        if self._count is not None:
            self._count(self._done)
        return logits

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As the harness does it."""
        del disable_tqdm
        with self._reporter.working(f"answering {len(requests)} requests by generation"):
            return super().generate_until(requests, disable_tqdm=True)


class AdapterLM(TemplateLM):  # type: ignore[misc]  # the package has no types
    """A model run through its adapter.

    Sequences of equal length form a batch, so nothing is padded.

    Args:
        adapter: the model's adapter.
        model: in evaluation mode.
        tokenizer: the model's.
        reporter: told how many requests are answered.
        padded: let sequences of different lengths form a batch: they are padded at the end, which a causal
            model's earlier tokens do not see. Fewer batches, and other last bits.
    """

    def __init__(
        self, adapter: Adapter, model: nn.Module, tokenizer: Any, reporter: Reporter, *, padded: bool = False
    ) -> None:
        super().__init__()
        self._padded = padded
        self._adapter = adapter
        self._model = model
        self.tokenizer = tokenizer
        self._reporter = reporter
        limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        self.max_length: int = limit or MAX_LENGTH

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

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **_options: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each continuation, and whether greedy decoding gives it."""
        del disable_tqdm
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with self._reporter.counting("answering, requests", len(requests)) as count:
            for done, (places, ids) in enumerate(self._batches(requests)):
                logits = self._adapter.logits(self._model, ids[:, :-1])
                for row, place in enumerate(places):
                    end = min(len(requests[place][1]) + len(requests[place][2]), self.max_length + 1)
                    begin = end - len(requests[place][2])
                    found[place] = _likelihood(logits[row, begin - 1 : end - 1], ids[row, begin:end])
                count(min((done + 1) * BATCH_SIZE, len(requests)))
        return found

    def _batches(self, requests: Sequence[Pair]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Batches of requests, truncated on the left: their places and tokens."""
        device = self._adapter.input_device(self._model)
        rows = [(*context, *asked)[-self.max_length - 1 :] for _, context, asked in requests]
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        for _, same in groupby(order, key=lambda place: self._padded or len(rows[place])):
            places = list(same)
            for begin in range(0, len(places), BATCH_SIZE):
                batch = places[begin : begin + BATCH_SIZE]
                longest = len(rows[batch[0]])
                ids = [[*rows[place], *[0] * (longest - len(rows[place]))] for place in batch]
                yield batch, torch.tensor(ids, device=device)


def _likelihood(logits: torch.Tensor, asked: torch.Tensor) -> tuple[float, bool]:
    """The pair for tokens (length,) under logits (length, vocabulary)."""
    asked = asked.to(logits.device)
    nats = logits.float().log_softmax(dim=-1).gather(-1, asked[:, None])
    return float(nats.double().sum()), bool((logits.argmax(dim=-1) == asked).all())
