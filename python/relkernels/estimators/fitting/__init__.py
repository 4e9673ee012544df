"""How estimators fit: losses, batches, starts, and the minimization."""
