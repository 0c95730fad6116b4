"""The model: loading a Wan folder and running one request on it, alone or together with other ranks.

Everything in this project that knows how Wan is built is here. Support for a second model family begins by putting an
interface in front of ``folder``, ``pipeline``, ``decoding`` and ``peak_memory``.
"""
