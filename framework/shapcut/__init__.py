"""shapcut: layer pruning of language models as a cooperative game.

The Python API consists of the names in ``__init__.pyi``; each is imported on first use.
"""

from importlib import metadata

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = metadata.version("shapcut")
