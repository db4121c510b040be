"""What the core itself offers, registered through the same hooks as everybody else's."""

from shapcut.estimators import ExactEstimator, SurrogateEstimator
from shapcut.executor import LocalExecutor
from shapcut.hookspecs import Register, hookimpl
from shapcut.paper import PaperEstimator
from shapcut.permutation import PermutationEstimator
from shapcut.sampling import ShapleySampler, StratifiedSampler
from shapcut.search import SearchSelector
from shapcut.selection import RankingSelector
from shapcut.stratified import StratifiedEstimator
from shapcut.utilities import KullbackLeibler, LogLikelihood, PerplexityRatio


@hookimpl
def shapcut_register_utilities(register: Register) -> None:
    """The paper's value and two others."""
    for utility in (PerplexityRatio, LogLikelihood, KullbackLeibler):
        register(utility.name, utility)


@hookimpl
def shapcut_register_samplers(register: Register) -> None:
    """Samplers that need no first look at the game."""
    register("stratified", StratifiedSampler)
    register("shapley", ShapleySampler)


@hookimpl
def shapcut_register_estimators(register: Register) -> None:
    """Exact enumeration, sampled marginals, the paper's estimator and our default."""
    sampled = (PermutationEstimator, StratifiedEstimator)
    for estimator in (ExactEstimator, PaperEstimator, SurrogateEstimator, *sampled):
        register(estimator.name, estimator)


@hookimpl
def shapcut_register_selectors(register: Register) -> None:
    """The paper's ranking and our default."""
    for selector in (RankingSelector, SearchSelector):
        register(selector.name, selector)


@hookimpl
def shapcut_register_executors(register: Register) -> None:
    """This process."""
    register(LocalExecutor.name, LocalExecutor)
