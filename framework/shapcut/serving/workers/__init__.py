"""Scripts that run in an engine's own Python, which need not have shapcut.

Each file but `worker` is one engine: a function ``answer(request)`` that takes and returns plain data, see
`shapcut.serving.answer`. None imports shapcut, and all run on Python 3.9.
"""
