"""The lesson, measured and written once."""

from __future__ import annotations

import pytest

from gradtrace.lesson.measured import Lesson
from gradtrace.lesson.measurement import measure_lesson
from gradtrace.lesson.page import render


@pytest.fixture(scope="session")
def lesson() -> Lesson:
    return measure_lesson()


@pytest.fixture(scope="session")
def text(lesson: Lesson) -> str:
    return render(lesson)


@pytest.fixture(scope="session")
def file(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("lesson") / "lesson.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def visit(open_page, file):
    return lambda **options: open_page(file.as_uri(), **options)
