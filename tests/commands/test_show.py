from __future__ import annotations

from tests.commands.calling import run
from tests.report.samples import SAMPLES

from gradtrace.records.storage import save


def test_a_saved_diagnosis_shows(tmp_path):
    save(SAMPLES["vanishing"](), tmp_path / "diagnosis.json.gz")
    result = run("show", str(tmp_path / "diagnosis.json.gz"))
    assert result.exit_code == 0
    assert "CRITICAL  GT101 vanishing" in result.stdout
