"""How estimators fit: losses, batches, starting points and the minimization."""
