"""Everything that an adapter or a plugin may import from the core.

The names stand in ``contracts.pyi``. Each is imported when it is first used, so that a plugin's own module
loads fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub("shapcut", __file__)
