"""The diagnosis as a small HTML fragment for notebooks; every name is escaped by jinja2."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import jinja2

from gradtrace.report.tables import main_trace, picture, unseen
from gradtrace.report.words import clean, clean_lines, decades, listed, number, short

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis

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


def to_html(diagnosis: Diagnosis) -> str:
    """A table of the layers and the findings, escaped; no script, no link, readable offline.

    >>> from gradtrace.records.finding import Diagnosis
    >>> "Healthy" in to_html(Diagnosis(findings=()))
    True
    """
    trace = main_trace(diagnosis)
    return _template().render(
        diagnosis=diagnosis,
        trace=trace,
        table=picture(trace) if trace is not None else None,
        unseen=unseen(trace) if trace is not None else (),
    )
