"""Sessions: one document each, its lock, its viewers, its life from the first request to the last hook."""
