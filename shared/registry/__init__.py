"""Which worker owns which session, decided atomically in Redis."""
