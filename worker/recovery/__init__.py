"""How a session outlives its worker: snapshots, the journal, and building it again."""
