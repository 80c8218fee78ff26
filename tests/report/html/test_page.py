"""The page as text: complete, escaped, small, and closed by its policy; and who may ask the server for it."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import socket
import struct
import threading
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from tests.report.html.pages import NASTY, PAGES, nasty, sigmoids, transformer
from tests.report.html.records import pooled_run, run, through_time
from tests.report.samples import SAMPLES, chain

from gradtrace.commands.main import main
from gradtrace.errors import InputError, TraceFileError
from gradtrace.records.files import SQLITE, starts_with
from gradtrace.records.finding import Diagnosis
from gradtrace.records.storage import save
from gradtrace.report.html import render, write_report
from gradtrace.report.html import server as server_module
from gradtrace.report.html.page import sections
from gradtrace.report.html.server import ReportServer
from gradtrace.report.opened import Opened
from gradtrace.runs.writer import RunWriter

MEGABYTE = 1_000_000


class Elements(HTMLParser):
    """Every start tag, and what script and style elements hold."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.held: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.tags.append((f"/{tag}", {}))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("script", "style"):
            self.held.append((self.tags[-1][1].get("type") or self.tags[-1][0], data))


def data_of(text: str):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_fetched_and_nothing_runs_but_what_the_policy_names(name):
    elements = Elements(PAGES[name]())
    policy = next(a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    for tag, attributes in elements.tags:
        assert tag not in ("img", "iframe", "object", "embed", "link", "form", "base")
        assert not any(key.startswith("on") or key in ("src", "style") for key in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    for kind, text in elements.held:
        if kind != "application/json":
            assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


@pytest.mark.parametrize("name", SAMPLES)
def test_every_record_makes_a_page(name):
    assert render(SAMPLES[name]()).rstrip().endswith("</html>")


def test_names_with_markup_are_text_in_the_page_and_in_the_numbers():
    text = render(nasty(), run(9, 220, name=NASTY.replace(".", "·") + ".{}"))
    assert "<img" not in text
    assert "onerror=alert(1)>" not in text
    assert any("<script>alert(0)</script>" in name for name in data_of(text)["waterfall"]["rows"]["name"])


def test_control_characters_and_direction_marks_are_gone():
    text = render(replace(sigmoids(), title="a\x1b[31m\u202eb\x00"))
    assert not re.search("[\x00\x1b\u202e]", text)


def test_sizes():
    assert len(render(transformer(), run()).encode()) < 3 * MEGABYTE
    assert len(render(SAMPLES["thousand"](), run(1000, 500)).encode()) < 8 * MEGABYTE


def test_every_plot_has_a_table_with_rows():
    for section in sections(Opened(sigmoids(), run(), (through_time(),))):
        assert section.answer
        for plot in section.plots:
            assert plot.table.rows, plot.key
            assert {len(row) for row in plot.table.rows} == {len(plot.table.columns)}


def test_a_section_without_anything_to_say_is_left_out():
    assert sections(Opened(Diagnosis(()))) == ()
    assert [section.key for section in sections(Opened(Diagnosis(()), run()))] == ["run"]


def test_the_verdict_says_what_where_since_when_and_what_to_change():
    text = render(SAMPLES["vanishing"]())
    for told in ("The gradient vanishes: the derivative of the activation is small", "net.py:3", "from the start",
                 "gain per layer -0.92 decades", "nn.init.kaiming_normal_", "He et al., 2015",
                 "and 14 more"):  # fmt: skip
        assert told in text
    assert "from training step 137 on" in render(Diagnosis(run().findings), run())


def test_a_pooled_run_says_so():
    assert "Old steps are pooled" in render(Diagnosis(()), pooled_run())


def test_what_was_not_seen_and_the_versions_are_told():
    text = render(SAMPLES["deep"](), run())
    for told in ("head.bias", "rnn (net.py:30)", "traced uncompiled", "its insides were not seen",
                 "detached for a while", "gradtrace run train.py --lr 1e-3"):  # fmt: skip
        assert told in text


def test_report_writes_the_file_whole_or_says_why_not(tmp_path):
    SAMPLES["vanishing"]().report(tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text(encoding="utf-8") == render(SAMPLES["vanishing"]())
    with pytest.raises(TraceFileError, match="cannot write"):
        write_report(tmp_path / "no" / "x.html", SAMPLES["healthy"]())
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]


# ------------------------------------------------------------------------------------------------------- command line


def test_gradtrace_report_of_a_trace_and_of_a_diagnosis(tmp_path):
    save(chain(4, 0.2, 0.5, "sigmoid"), tmp_path / "trace.json.gz")
    done = CliRunner().invoke(main, ["report", str(tmp_path / "trace.json.gz")])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "trace.html")
    assert "layers.0" in (tmp_path / "trace.html").read_text(encoding="utf-8")
    save(through_time(), tmp_path / "time.json.gz")
    assert (
        CliRunner().invoke(main, ["report", str(tmp_path / "time.json.gz"), "-o", str(tmp_path / "y.html")]).exit_code
        == 0
    )
    assert "horizon" in (tmp_path / "y.html").read_text(encoding="utf-8")


def test_gradtrace_report_of_nothing(tmp_path):
    done = CliRunner().invoke(main, ["report", str(tmp_path / "none.db")])
    assert done.exit_code == 2
    assert "cannot read" in done.output


# ------------------------------------------------------------------------------------------------------------- server


@pytest.fixture
def server(tmp_path):
    path = tmp_path / "trace.json.gz"
    save(chain(3, 0.2, 0.5, "sigmoid"), path)
    with ReportServer(path) as opened:
        threading.Thread(target=opened.serve_forever, args=(0.01,), daemon=True).start()
        yield opened
        opened.shutdown()


def ask(server: ReportServer, path: str, *, method: str = "GET", host: str | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, dict(answer.getheaders())


def test_the_server_answers_only_who_knows_the_token(server):
    secret = server.url.split("/", 3)[3]
    assert len(secret) > 30
    status, body, headers = ask(server, f"/{secret}")
    assert status == 200
    assert "layers.0" in body
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    for path in ("/", f"/{secret[:-2]}/", "/news", f"/{secret}../etc/passwd", f"/{secret}x"):
        assert ask(server, path)[0] == 404


def test_the_server_listens_here_only_and_knows_its_name(server):
    assert server.server_address[0] == "127.0.0.1"
    secret = server.url.split("/", 3)[3]
    assert ask(server, f"/{secret}", host=f"localhost:{server.server_port}")[0] == 200
    assert ask(server, f"/{secret}", host="attacker.example")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_the_server_only_reads(server, method):
    assert ask(server, f"/{server.url.split('/', 3)[3]}", method=method)[0] == 501


def test_news_is_told_and_the_page_made_anew(server):
    secret = server.url.split("/", 3)[3]
    before = json.loads(ask(server, f"/{secret}news")[1])
    assert json.loads(ask(server, f"/{secret}news")[1]) == before
    save(chain(5, 0.2, 0.5, "sigmoid", name="other.{}"), server.path)
    assert json.loads(ask(server, f"/{secret}news")[1]) != before
    assert "other.4" in ask(server, f"/{secret}")[1]


def test_a_file_that_breaks_while_it_is_served_is_told(server):
    server.path.write_bytes(b"broken")
    status, body, _ = ask(server, f"/{server.url.split('/', 3)[3]}")
    assert status == 503
    assert "not a gradtrace file" in body


def keep(path, num_steps):
    made = run(3, num_steps)
    writer = RunWriter(path, made.header)
    for row, first in enumerate(made.steps.first):
        writer.append(int(first), 0.1 * row, made.steps.scalars_low[row], made.steps.series_low[row], nonfinite=False)
    writer.close()


def test_all_runs_of_a_folder_are_served_and_a_new_one_is_news(tmp_path):
    keep(tmp_path / "small.db", 10)
    keep(tmp_path / "large.db", 20)
    (tmp_path / "notes.txt").write_text("not a run", encoding="utf-8")
    with ReportServer(tmp_path) as opened:
        threading.Thread(target=opened.serve_forever, args=(0.01,), daemon=True).start()
        secret = opened.url.split("/", 3)[3]
        status, body, _ = ask(opened, f"/{secret}")
        assert status == 200
        assert all(name in body for name in ("small", "large"))
        before = ask(opened, f"/{secret}news")[1]
        assert ask(opened, f"/{secret}news")[1] == before
        keep(tmp_path / "third.db", 10)
        assert ask(opened, f"/{secret}news")[1] != before
        assert "third" in ask(opened, f"/{secret}")[1]
        opened.shutdown()


def test_a_folder_without_runs_is_told_before_it_is_served_and_one_of_a_single_run_is_that_run(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        ReportServer(tmp_path)
    keep(tmp_path / "only.db", 10)
    with ReportServer(tmp_path) as opened, ReportServer(tmp_path / "only.db") as of_file:
        assert "layers.2" in opened.page() == of_file.page()


def test_a_connection_that_says_nothing_is_closed(server, monkeypatch):
    monkeypatch.setattr(server_module._Handler, "timeout", 0.05)
    with socket.create_connection(server.server_address, timeout=10) as idle:
        assert idle.recv(1) == b""  # closed by the server
    assert ask(server, f"/{server.url.split('/', 3)[3]}")[0] == 200


def test_a_connection_that_is_reset_is_nothing_to_speak_of(server, capfd):
    for _ in range(3):
        gone = socket.create_connection(server.server_address, timeout=10)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets
        gone.sendall(
            f"GET /{server.url.split('/', 3)[3]} HTTP/1.0\r\nHost: 127.0.0.1:{server.server_port}\r\n".encode()
        )
        gone.close()
    assert ask(server, f"/{server.url.split('/', 3)[3]}")[0] == 200
    assert capfd.readouterr().err == ""


def test_more_connections_than_there_are_places_for_are_closed(server, monkeypatch):
    places = [server._places.acquire(blocking=False) for _ in range(server_module.MOST_CONNECTIONS)]
    assert all(places)
    with socket.create_connection(server.server_address, timeout=10) as late:
        assert late.recv(1) == b""
    for _ in places:
        server._places.release()
    assert ask(server, f"/{server.url.split('/', 3)[3]}")[0] == 200


def test_a_wrong_file_is_refused_at_once(tmp_path):
    with pytest.raises(TraceFileError, match="cannot read"):
        ReportServer(tmp_path / "none.db")


def test_the_report_of_a_run_shows_its_latest_trace(tmp_path):
    path, made = tmp_path / "run.db", run(9, 200)
    writer = RunWriter(path, made.header)
    for row in range(len(made.steps.first)):
        low = made.steps.scalars_low[row], made.steps.series_low[row]
        writer.append(int(made.steps.first[row]), 0.1 * row, low[0], low[1], nonfinite=bool(made.steps.nonfinite[row]))
    for event in made.events:
        writer.event(event)
    writer.findings(made.findings)
    for step in (0, 7):
        writer.trace(step, chain(3, 0.2, 0.5, "sigmoid", name=f"at_step_{step}.{{}}"))
    writer.close()
    done = CliRunner().invoke(main, ["report", str(path)])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "at_step_7.2" in text
    assert made.findings[0].message.split(":")[0] in text
    assert 'id="run"' in text


def test_a_run_is_told_by_how_its_file_begins(tmp_path):
    path = tmp_path / "run.db"
    path.write_bytes(SQLITE + bytes(84))
    assert starts_with(path, SQLITE)
    path.write_bytes(b"\x1f\x8b")
    assert not starts_with(path, SQLITE)
