"""The studies of `relkernels reproduce`: claims of the theory, measured."""
