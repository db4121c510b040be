"""What the core itself offers, registered through the same hooks as everybody else's."""

from shapcut.baselines.angular import AngularSelector
from shapcut.baselines.blind import LastEstimator, NoEstimator, RandomEstimator
from shapcut.baselines.block_influence import BlockInfluenceEstimator
from shapcut.baselines.evolutionary import EvolutionarySelector
from shapcut.baselines.greedy import GreedySelector
from shapcut.baselines.leave_one_out import LeaveOneOutEstimator
from shapcut.baselines.taylor import TaylorEstimator
from shapcut.estimators.exact import ExactEstimator
from shapcut.estimators.paper import PaperEstimator
from shapcut.estimators.permutation import PermutationEstimator
from shapcut.estimators.sampling import ShapleySampler, StratifiedSampler
from shapcut.estimators.stratified import StratifiedEstimator
from shapcut.estimators.surrogate import SurrogateEstimator
from shapcut.host.hookspecs import Register, hookimpl
from shapcut.selection.ranking import RankingSelector
from shapcut.selection.search import SearchSelector
from shapcut.valuation.executor import LocalExecutor
from shapcut.valuation.utilities import KullbackLeibler, LogLikelihood, PerplexityRatio


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
    """Exact enumeration, sampled marginals, the paper's estimator, our default, and the baselines."""
    for estimator in (
        ExactEstimator,
        PaperEstimator,
        SurrogateEstimator,
        PermutationEstimator,
        StratifiedEstimator,
        LeaveOneOutEstimator,
        BlockInfluenceEstimator,
        TaylorEstimator,
        RandomEstimator,
        LastEstimator,
        NoEstimator,
    ):
        register(estimator.name, estimator)


@hookimpl
def shapcut_register_selectors(register: Register) -> None:
    """The paper's ranking, our default, and the baselines."""
    for selector in (RankingSelector, SearchSelector, GreedySelector, EvolutionarySelector, AngularSelector):
        register(selector.name, selector)


@hookimpl
def shapcut_register_executors(register: Register) -> None:
    """This process."""
    register(LocalExecutor.name, LocalExecutor)
