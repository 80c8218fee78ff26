"""Time unrolled: the gradient step by step, how far back it reaches, and the exponents of the map behind it."""
