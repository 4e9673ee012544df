"""The studies of `relkernels reproduce`: measurements of the theory's claims."""
