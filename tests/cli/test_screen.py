"""Progress of a notebook: a line that is rewritten in place, or a few lines without a terminal."""

import nbformat

from smp.cli.notebooks import terminal_text, without_local_paths
from smp.cli.screen import Screen

UP = "\x1b[A"
WARNING = "/a/b.py:3: UserWarning: odd\n  warnings.warn('odd')\n"


def bar(percent):
    return f"\rsmp: {percent:3}%|###  | {percent}/100 [00:10<00:20, 2.00 steps/s, loss=1.00]"


def test_terminal_text_is_the_final_screen():
    text = f"\rtrain:  5%\n\reval: 10%{UP}\n\reval: 99%{UP}\n\r         {UP}\rtrain: 100%\ndone\n"
    assert terminal_text(text) == "train: 100%\ndone\n"
    assert terminal_text("plain\n  text\n") == "plain\n  text\n"


def test_local_paths_are_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    text = f"{tmp_path}/results/a.json /home/me/b /tmp/ipykernel_12/34.py:5: W https://a.b/c"
    assert without_local_paths(text) == "results/a.json ~/b <cell>:5: W https://a.b/c"


def test_a_terminal_shows_headings_and_bars_in_place(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Screen() as screen:
        screen.cell_started(nbformat.v4.new_markdown_cell("## Training\n\nLong."), 0)
        screen.cell_started(nbformat.v4.new_code_cell("train()"), 1)
        for percent in (0, 50, 100):
            screen.read(bar(percent), "stdout")
        screen.read("\n" + WARNING, "stderr")
    shown = capsys.readouterr()
    assert shown.out == "      UserWarning: odd\n"  # remains, also in a file
    assert shown.err.index("Training") < shown.err.index("50/100") < shown.err.index("100/100")
    assert "\n" not in shown.err and terminal_text(shown.err).strip() == ""


def test_without_a_terminal_a_training_prints_3_lines(monkeypatch, capsys):
    clock = iter(range(0, 10**6, 40))
    monkeypatch.setattr("smp.cli.screen.time.monotonic", lambda: next(clock))
    with Screen() as screen:
        for percent in range(101):
            screen.read(bar(percent), "stdout")
            screen.read(f"\n\rreading: {percent}%|#  | 1/2 [00:01<00:01, 2 windows/s]{UP}",
                        "stdout")
    shown = capsys.readouterr()
    assert shown.err == "" and shown.out.splitlines() == [
        f"      smp:  {n}% {n}/100 [00:10<00:20, 2.00 steps/s, loss=1.00]" for n in (25, 50, 75)]


def test_progress_lines_are_30_seconds_apart(capsys):
    with Screen() as screen:
        for percent in range(101):
            screen.read(bar(percent), "stdout")
    assert capsys.readouterr().out == ""


def test_the_first_warning_is_printed_and_others_counted(capsys):
    with Screen() as screen:
        for text in (bar(5) + WARNING, WARNING, "Traceback (most recent call last):\n  File\n",
                     "Val", "ueError: no\n", "last, without an end"):
            screen.read(text, "stderr")
    assert capsys.readouterr().out.splitlines() == [
        "      UserWarning: odd", "      (the executed notebook contains 2 more warnings)"]
