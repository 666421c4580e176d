"""Getting back to a model that is known to be good, and proving it."""
