"""Fork, watch and replace the processes of a node. Runs in the supervisor: no event loop, no threads."""
