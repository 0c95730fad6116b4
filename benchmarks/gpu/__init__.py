"""How fast a gang is on GPUs, against what its users would run by hand: ``python -m benchmarks.gpu``."""
