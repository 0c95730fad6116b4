"""The bundle on a real Kubernetes node, measured: ``python -m benchmarks.cluster``."""
