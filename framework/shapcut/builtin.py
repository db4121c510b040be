"""The core's own utilities, samplers, estimators, selectors, executors and engines, as a plugin."""

from shapcut.host.hookspecs import Register, hookimpl


@hookimpl
def shapcut_register_utilities(register: Register) -> None:
    """Register the paper's utility, two others on text, and tasks."""
    register("perplexity-ratio", "shapcut.valuation.utilities:PerplexityRatio")
    register("log-likelihood", "shapcut.valuation.utilities:LogLikelihood")
    register("kl", "shapcut.valuation.utilities:KullbackLeibler")
    register("tasks", "shapcut.measurement.task_utility:TaskUtility")


@hookimpl
def shapcut_register_samplers(register: Register) -> None:
    """Register the samplers that need no measurements."""
    register("stratified", "shapcut.estimators.sampling:StratifiedSampler")
    register("shapley", "shapcut.estimators.sampling:ShapleySampler")


@hookimpl
def shapcut_register_estimators(register: Register) -> None:
    """Register exact enumeration, sampled marginals, the paper's estimator, the default and the baselines."""
    register("exact", "shapcut.estimators.exact:ExactEstimator")
    register("paper", "shapcut.estimators.paper:PaperEstimator")
    register("surrogate", "shapcut.estimators.surrogate:SurrogateEstimator")
    register("mixed", "shapcut.estimators.mixed:MixedEstimator")
    register("permutation", "shapcut.estimators.permutation:PermutationEstimator")
    register("stratified", "shapcut.estimators.stratified:StratifiedEstimator")
    register("leave-one-out", "shapcut.baselines.leave_one_out:LeaveOneOutEstimator")
    register("block-influence", "shapcut.baselines.block_influence:BlockInfluenceEstimator")
    register("taylor", "shapcut.baselines.taylor:TaylorEstimator")
    register("frequency", "shapcut.baselines.expert_statistics:FrequencyEstimator")
    register("ean", "shapcut.baselines.expert_statistics:ActivationNormEstimator")
    register("reap", "shapcut.baselines.expert_statistics:ReapEstimator")
    register("random", "shapcut.baselines.blind:RandomEstimator")
    register("last-n", "shapcut.baselines.blind:LastEstimator")
    register("none", "shapcut.baselines.blind:NoEstimator")


@hookimpl
def shapcut_register_selectors(register: Register) -> None:
    """Register the paper's ranking, the default and the baselines."""
    register("ranking", "shapcut.selection.ranking:RankingSelector")
    register("search", "shapcut.selection.search:SearchSelector")
    register("mixed", "shapcut.selection.mixed:MixedSelector")
    register("greedy", "shapcut.baselines.greedy:GreedySelector")
    register("evolutionary", "shapcut.baselines.evolutionary:EvolutionarySelector")
    register("angular", "shapcut.baselines.angular:AngularSelector")


@hookimpl
def shapcut_register_executors(register: Register) -> None:
    """Register the executor of this process."""
    register("local", "shapcut.valuation.executor:LocalExecutor")


@hookimpl
def shapcut_register_engines(register: Register) -> None:
    """Register the inference engines that pruned models were tried in."""
    register("transformers", "shapcut.serving.engine:TransformersEngine")
    register("vllm", "shapcut.serving.engine:VllmEngine")
    register("llama.cpp", "shapcut.serving.engine:LlamaCppEngine")
