"""Everything that an adapter or a plugin may import from the core.

The names are listed in ``contracts.pyi``; each is imported on first use, so a plugin's module loads fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub("shapcut", __file__)
