"""What each torch function does to signal and gradient: one table from its name to its rule."""
