"""Utilities turn means over tokens into values."""

import numpy as np
import pytest

from shapcut.valuation.utilities import KullbackLeibler, LogLikelihood, ModelUtility, PerplexityRatio

MEANS = np.array([2.0, 3.5, 1.0])


def test_perplexity_ratio():
    values = PerplexityRatio().value(MEANS, 2.0)
    assert values == pytest.approx(np.exp(2.0) / np.exp(MEANS))
    assert values[0] == 1.0
    assert values[2] > 1.0


@pytest.mark.parametrize("utility", [LogLikelihood(), KullbackLeibler()])
def test_negative_means(utility):
    assert utility.value(MEANS, 2.0).tolist() == [-2.0, -3.5, -1.0]


@pytest.mark.parametrize("utility", [PerplexityRatio(), LogLikelihood(), KullbackLeibler()])
def test_higher_is_better_and_nan_stays_nan(utility):
    assert np.argsort(utility.value(MEANS, 2.0)).tolist() == [1, 0, 2]
    assert np.isnan(utility.value(np.array([np.nan]), 2.0)).all()


def test_an_infinite_loss_is_an_infinite_perplexity():
    assert PerplexityRatio().value(np.array([np.inf]), 2.0).tolist() == [0.0]
    assert LogLikelihood().value(np.array([np.inf]), 2.0).tolist() == [-np.inf]


def test_measures():
    assert (PerplexityRatio.measure, LogLikelihood.measure, KullbackLeibler.measure) == ("nll", "nll", "kl")
    assert (PerplexityRatio.name, LogLikelihood.name, KullbackLeibler.name) == (
        "perplexity-ratio",
        "log-likelihood",
        "kl",
    )


def test_model_utility_keeps_function_and_name():
    utility = ModelUtility(len, "length")
    assert utility.function is len
    assert utility.name == "length"
