import json

from hwnas import dashboard as served
from hwnas.cli.dashboard import dashboard
from hwnas.cli.report import report


def test_report_writes_the_page_and_the_drawing_and_names_them(run_folder, capsys) -> None:
    report(run_folder, svg=run_folder / "front.svg", as_json=True)
    written = json.loads(capsys.readouterr().out)["written"]
    assert written == [str(run_folder / "report.html"), str(run_folder / "front.svg")]
    assert (run_folder / "front.svg").read_text().startswith("<svg")
    report(run_folder)
    assert capsys.readouterr().out == f"{run_folder / 'report.html'}\n"


def test_dashboard_says_where_it_is(monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(served, "serve_dashboard", lambda *a, **k: asked.append((*a, k)))
    dashboard("runs/demo", port=8090, storage="postgresql://db/x")
    assert asked == [("runs/demo", {"port": 8090, "storage": "postgresql://db/x"})]
    assert "http://127.0.0.1:8090/dashboard" in capsys.readouterr().err
