"""What does theory say of the network before training, layer by layer, and what was measured beside?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.report.html.activations import spread
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.words import clean, decades, short

if TYPE_CHECKING:
    from gradtrace.records.prediction import Prediction

MOST_ROWS = 400


def prediction(record: Prediction) -> Section | None:
    """Predicted and measured decades from the output to each layer; None without layers."""
    if not record.layers:
        return None
    layers = record.layers[::-1]  # from the output to the input, as the gradient goes
    lines = [
        ["predicted", [layer.decades for layer in layers]],
        ["measured", [layer.measured_decades for layer in layers]],
    ]
    data = {"x": "layers from the output", "y": "gradient", "lines": lines, "cuts": [], "levels": []}
    rows = []
    for i in spread(len(layers), MOST_ROWS):
        layer = layers[i]
        name = f"{clean(layer.module) or 'model'} {clean(layer.module_type)}".rstrip()
        numbers = (decades(layer.decades), decades(layer.low), decades(layer.high), decades(layer.measured_decades))
        rows.append((name, clean(layer.activation), short(layer.gain), *numbers))
    table = Table(("layer", "activation", "gain", "predicted", "low", "high", "measured"), tuple(rows))
    reading = (
        "Decades from the network's output to the input of each layer: 95 % of networks of this design lie between low "
        "and high in the table."
    )
    plot = Plot("prediction", "series", "Prediction", reading, data, table)
    answer = clean(record.sentences[0]) if record.sentences else f"The phase is {record.phase}."
    answer = answer[:1].upper() + answer[1:]
    notes = tuple(
        map(clean, (*record.sentences[1:], *(d.message for d in record.disagreements), *record.gaps, *record.notes))
    )
    return Section("prediction", "What theory predicts, and what is measured", answer, (plot,), notes)
