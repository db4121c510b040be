from .api import apply as apply
from .api import compare as compare
from .api import estimate as estimate
from .api import evaluate as evaluate
from .api import inspect as inspect
from .api import load_game as load_game
from .api import prune as prune
from .api import select as select
from .comparison.compare import Comparison as Comparison
from .game.contributions import Contributions as Contributions
from .game.game import FunctionGame as FunctionGame
from .game.game import Game as Game
from .game.plan import RemovalPlan as RemovalPlan
from .measurement.record import ModelMeasurement as ModelMeasurement
from .pipeline.in_memory import PrunedModel as PrunedModel
from .pipeline.inspection import Inspection as Inspection
from .pipeline.result import PruneResult as PruneResult
from .pipeline.series import SeriesResult as SeriesResult
from .recipe.recipe import Recipe as Recipe
from .support.errors import InputError as InputError
from .support.errors import ShapcutError as ShapcutError
from .valuation.model_game import ModelGame as ModelGame

__version__: str
