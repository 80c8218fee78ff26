"""Which steps are traced whole, and how."""
