"""A training under watch: norms at every step, whole traces now and then, and the birthplace of the first NaN."""
