"""A model that leaves its device."""

from typing import Any

import pytest
import torch
from torch import nn

from shapcut.models import loading
from shapcut.models.loading import Residence


class Movable(nn.Module):
    """Notes where it is moved to."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.moves: list[str] = []

    def to(self, *args: Any, **_: Any) -> "Movable":
        self.moves.append(str(args[0]))
        return self


def test_it_leaves_once_and_returns_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "weight_devices", lambda _: (torch.device("cuda", 1),))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    model = Movable()
    residence = Residence(model)
    residence.leave()
    residence.leave()
    assert residence.model is model
    assert model.moves == ["cpu"]
    assert residence.present() is residence.present() is model
    assert model.moves == ["cpu", "cuda:1"]


def test_a_model_on_a_cpu_stays() -> None:
    model = Movable()
    residence = Residence(model)
    residence.leave()
    residence.present()
    assert model.moves == []
