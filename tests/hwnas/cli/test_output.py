import io

from rich.console import Console

from hwnas.cli.output import ConsoleProgress, print_table


def test_what_a_failure_says_is_no_markup():
    progress, shown = ConsoleProgress(), io.StringIO()
    progress._console = Console(file=shown, force_terminal=True, width=200)
    with progress.task("searching [bold]", 2) as task:
        task.update(1, note="t1 failed: OSError: no [/data/x] in [bold]")
        progress.say("in [/data/y]")
    text = shown.getvalue()
    assert "no [/data/x] in [bold]" in text and "searching [bold]" in text
    assert "in [/data/y]" in text


def test_what_stands_in_a_table_is_no_markup(capsys):
    print_table("of [/x]", ["[bold]"], [["[relu]"], ["[/y]"]])
    text = capsys.readouterr().out
    assert all(word in text for word in ("of [/x]", "[bold]", "[relu]", "[/y]"))
