"""How the state of an object is kept and given back, by what it is."""
