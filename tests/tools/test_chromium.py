"""What of the browser test holds without a browser; `make test-browser` needs one."""

import subprocess

import pytest
from chromium import BrowserError, end_group, find_chromium


def test_a_missing_browser_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSER", raising=False)
    with pytest.raises(BrowserError, match="^no Chromium found: install one .*BROWSER=") as told:
        find_chromium()
    assert "\n" not in str(told.value)


def test_chromium_is_found_by_name_or_by_BROWSER(monkeypatch, tmp_path):
    for name in ("google-chrome", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSER", raising=False)
    assert find_chromium() == str(tmp_path / "google-chrome")
    monkeypatch.setenv("BROWSER", str(tmp_path / "mine"))
    assert find_chromium() == str(tmp_path / "mine")
    monkeypatch.setenv("BROWSER", "not there")
    with pytest.raises(BrowserError, match="at BROWSER='not there'"):
        find_chromium()


def test_a_stubborn_process_group_is_killed():
    """Its child holds the pipe open: reading to the end waits until both are gone."""
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; sh -c \"trap '' TERM; echo up; exec sleep 600\""],
        stdout=subprocess.PIPE, start_new_session=True, text=True,
    )
    assert stubborn.stdout.readline() == "up\n"
    end_group(stubborn, seconds=0.2)
    assert stubborn.stdout.read() == "" and stubborn.returncode == -9
