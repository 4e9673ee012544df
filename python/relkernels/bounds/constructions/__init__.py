"""Networks built from a formula, each with a proof of its error: the upper bounds of `neurons`."""
