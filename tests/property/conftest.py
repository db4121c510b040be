"""Property tests run the same examples every time and leave nothing behind."""

from hypothesis import settings

settings.register_profile("shapcut", deadline=None, derandomize=True, database=None, max_examples=30)
settings.load_profile("shapcut")
