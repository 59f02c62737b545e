"""Side-by-side benchmarks of lakefmt and its peers, run by ``python -m benchmarks``: see README.md."""
