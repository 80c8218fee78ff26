"""A record as a small HTML fragment for notebooks: an inline SVG, the findings; every name is escaped."""

from __future__ import annotations

import math
from functools import cache
from html import escape
from typing import TYPE_CHECKING

import jinja2
import numpy as np
from markupsafe import Markup

from gradtrace.records.finding import Diagnosis
from gradtrace.records.prediction import Prediction
from gradtrace.records.repair import Repair
from gradtrace.records.run import Run, Scalar
from gradtrace.records.trace import Trace
from gradtrace.report.prediction import initialisation_text
from gradtrace.report.repair import to_html as repair_html
from gradtrace.report.strip import column_of_steps, layer_decades
from gradtrace.report.summary import facts
from gradtrace.report.svg import curves, heat, waterfall
from gradtrace.report.tables import main_trace, picture, unseen
from gradtrace.report.words import clean, clean_lines, decades, listed, number, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.lyapunov import LyapunovSpectrum
    from gradtrace.records.prediction import Initialisation
    from gradtrace.runs.loading import Record

MOST_POINTS = 600
"""Of a line."""

MOST_COLUMNS = 80
"""Of a map: a notebook keeps every picture in it."""

_TEMPLATE = """\
<div class="gradtrace">
<p><b>gradtrace</b> {{ diagnosis.title }}{% if trace %}: loss {{ short(trace.loss) }}{% endif %}.
{% if diagnosis.healthy %}<b>Healthy.</b>{% endif %}</p>
{% for finding in diagnosis.findings -%}
<p><b>{{ finding.severity.value | upper }} {{ finding.symptom.value | replace("_", " ") }}</b>
{%- if finding.cause.value != "none" %}, because of {{ finding.cause.value | replace("_", " ") }}{% endif %}.
{{ clean(finding.message) }}<br>
{% if finding.where %}<code>{{ listed(finding.where) }}</code> {{ clean(finding.source) }}<br>{% endif %}
<small>{% for evidence in finding.evidence %}{{ number(evidence) }}{{ "; " if not loop.last }}{% endfor %}</small></p>
{% for remedy in finding.remedies -%}
<p>&rarr; {{ clean(remedy.title) }} {{ clean(remedy.source) }}</p>
{% if remedy.code %}<pre>{{ clean_lines(remedy.code) | join("\n") }}</pre>
{% endif %}{% endfor %}{% endfor -%}
{{ svg }}
{% if table and table.rows -%}
<table>
<thead><tr><th>layer</th><th>so far</th>
{%- for f in table.told %}<th>{{ f.value }}</th>{% endfor %}<th>|grad|/|W|</th></tr></thead>
<tbody>
{% for row in table.rows -%}
<tr><td>{{ clean(row.first) }}
{%- if row.first != row.last %} &hellip; {{ clean(row.last) }} ({{ row.num_layers }} alike){% endif %}</td>
<td>{{ decades(row.after) }}</td>
{%- for f in table.told %}<td>{{ decades(row.gains[f]) if f in row.gains }}</td>{% endfor -%}
<td>{{ short(row.relative_gradient) if row.relative_gradient == row.relative_gradient }}</td></tr>
{% endfor -%}
</tbody></table>
<p><small>Decades (powers of ten) from the {{ table.start }} at the top to the input at the bottom.</small></p>
{% endif -%}
{% for refusal in diagnosis.refusals %}<p>Not judged: {{ clean(refusal) }}</p>
{% endfor -%}
{% for sentence in diagnosis.moved %}<p>Moved: {{ clean(sentence) }}</p>
{% endfor -%}
{% for what, names in unseen %}<p>Not seen: {{ clean(what) }}{% if names %}: {{ listed(names) }}{% endif %}</p>
{% endfor -%}
</div>
"""


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals.update(
        clean=clean, clean_lines=clean_lines, decades=decades, listed=listed, number=number, short=short
    )
    return environment.from_string(_TEMPLATE)


def to_html(record: Record) -> str:
    """The picture of a record and what was found, escaped; no script, no link, readable offline.

    >>> from gradtrace.records.finding import Diagnosis
    >>> "Healthy" in to_html(Diagnosis(findings=()))
    True
    """
    if isinstance(record, Diagnosis):
        return _diagnosis(record)
    if isinstance(record, Trace):
        return _framed(_svg(record), f"{record!r}"[1:-1])
    if isinstance(record, Run):
        return run_html(record, findings=True)
    if isinstance(record, Prediction):
        layers = record.layers[::-1]
        lines = [("predicted", [layer.decades for layer in layers])]
        if not math.isnan(record.measured_decades):
            lines.append(("measured", [layer.measured_decades for layer in layers]))
        label = "decades, by layers from the output to the input"
        return _framed(curves(lines, label, logarithmic=False), f"{record!r}"[1:-1], record.sentences)
    if isinstance(record, Repair):
        return repair_html(record)
    lines = [(chain.name, list(chain.states)) for chain in record.chains[:5]]
    drawn = curves(lines, "|gradient| at each step in time") if lines else ""
    return _framed(drawn, f"{record!r}"[1:-1], record.sentences)


def initialisation_html(done: Initialisation) -> str:
    """Its text, escaped."""
    return f'<div class="gradtrace"><pre>{escape(initialisation_text(done))}</pre></div>'


def spectrum_html(spectrum: LyapunovSpectrum) -> str:
    """The exponents, largest first, and what the largest means."""
    drawn = curves([("exponents", list(spectrum.exponents))], "nats per step, largest first", logarithmic=False)
    certificate = [told] if (told := spectrum.certificate()) else []
    return _framed(drawn, f"Lyapunov exponents of {spectrum.name}", [spectrum.sentence(), *certificate])


def _svg(trace: Trace | None) -> str:
    table = picture(trace) if trace is not None else None
    return waterfall(table) if table is not None and table.rows else ""


def _framed(drawn: str, title: str, sentences: Sequence[str] = ()) -> str:
    told = "".join(f"<p>{escape(clean(sentence))}</p>" for sentence in sentences)
    return f'<div class="gradtrace"><p><b>gradtrace</b> {escape(clean(title))}</p>{drawn}{told}</div>'


def run_html(run: Run, *, findings: bool = False) -> str:
    """Loss, gradient norm, and the gradient by depth over the steps; on request what was found, a line each."""
    told = "; ".join(f"{name.lower()} {value}" for name, value in facts(run))
    found = [f"{f.severity.value.upper()} {f.symptom.value.replace('_', ' ')}: {f.message}" for f in run.findings]
    lines = []
    for name, label in ((Scalar.LOSS, "loss"), (Scalar.GRADIENT_NORM, "gradient norm")):
        values = run.steps.scalar(name)[1]
        places = np.linspace(0, max(len(values) - 1, 0), min(len(values), MOST_POINTS)).astype(np.int64)
        lines.append((label, [float(values[i]) for i in places]))
    drawn = "".join(curves([line], f"{line[0]} over the steps") for line in lines if any(map(math.isfinite, line[1])))
    return _framed(drawn + _heat(run), f"{run!r}"[1:-1], [told, *(found if findings else ())])


def _heat(run: Run) -> str:
    names, decades = layer_decades(run, column_of_steps(run.steps, MOST_COLUMNS))
    return heat(names, decades) if decades.size else ""


def _diagnosis(diagnosis: Diagnosis) -> str:
    trace = main_trace(diagnosis)
    return _template().render(
        diagnosis=diagnosis,
        trace=trace,
        svg=Markup(_svg(trace)),
        table=picture(trace) if trace is not None else None,
        unseen=unseen(trace) if trace is not None else (),
    )
