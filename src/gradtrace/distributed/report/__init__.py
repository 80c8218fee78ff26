"""One report: what a rank gives, as numbers that are added over the world, and what the sum tells.

fields   which numbers there are, and where
given    what a rank has to say of a step
merged   what all of them say together
collect  from the one to the other
"""
