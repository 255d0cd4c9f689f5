"""Sessions that outlive their worker: what is written down of each, and how it is built again from that."""
