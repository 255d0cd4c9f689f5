"""The front of a node: the supervisor, and the gateway that routes each new connection to a worker."""
