"""What the service costs beside the pipeline that it runs; ``python -m benchmarks.service`` prints it."""
