"""The front of a node: accept, read heads, route, hand over. Runs in the gateway process."""
