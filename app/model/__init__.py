"""The model: loads a Wan folder and runs one request on it, alone or together with other ranks.

All code that depends on Wan's architecture is here. Support for a second model family begins with an interface in front
of ``folder``, ``pipeline``, ``decoding`` and ``peak_memory``. tests/app/model/test_leaned_on.py lists the private names
of diffusers and torch that this package uses.
"""
