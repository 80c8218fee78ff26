"""The file of a training run: written while it trains, read at any time, bounded in size."""
