from __future__ import annotations

from tests.commands.calling import run


def test_the_demo_tells_the_lesson(verdict, monkeypatch):
    import gradtrace.commands.demo.lecture

    monkeypatch.setattr(gradtrace.commands.demo.lecture, "NUM_STEPS", 60)
    monkeypatch.setattr(gradtrace.commands.demo.lecture, "PROOF_TIME_S", 1e-3)
    result = run("demo")
    assert result.exit_code == 0, result.output
    assert "20 layers of sigmoids" in result.stdout
    assert "20 layers of ReLUs" in result.stdout
    assert len(verdict["calls"]) == 2
    assert "Each change tried on copies of the sigmoid network" in result.stdout
