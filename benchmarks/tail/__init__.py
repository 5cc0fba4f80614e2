"""The tail of `Replicas` and `Hedged`, simulated: `python -m benchmarks.tail`."""
