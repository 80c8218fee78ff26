"""What several ranks add: who holds which entries of a parameter, and one sum over the world a report."""
