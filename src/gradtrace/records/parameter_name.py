"""Which module does a parameter's name speak of? All in front of its last dot, those within a key aside."""

from __future__ import annotations


def module_in(name: str) -> str:
    """Path of the module that holds a parameter; '' for one that the root holds.

    Tensors that no module holds have the script's own names, with the keys of its dicts, and what these contain.

    >>> module_in("encoder.0.weight"), module_in("weight"), module_in("layers[0].w")
    ('encoder.0', '', 'layers[0]')
    >>> module_in("params['2.weight']"), module_in("net.params['2.weight']")
    ('', 'net')
    """
    end = len(name)
    while name.endswith("]") and (begin := name.rfind("[", 0, end)) >= 0:
        end = begin
        if not name[:end].endswith("]"):
            break
    return name[:end].rpartition(".")[0]
