"""Sessions and their viewers in different workers: the owner's side, the edges' side, and the cluster they are in."""
