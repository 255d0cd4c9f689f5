"""The rows of the benchmark, in groups that share their servers."""
