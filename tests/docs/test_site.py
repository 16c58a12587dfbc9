"""The site builds, without a warning and without the network, and asks for nothing from others."""

import os
import re
import subprocess
import sys

import pytest

from .markdown import PAGES, ROOT

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there(site):
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            inside = page.relative_to(ROOT / "docs").with_suffix(".html")
            assert (site / inside).is_file()


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.findall(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//', text)
        assert not re.findall(r'<link[^>]* rel="(?:stylesheet|preconnect)"[^>]*//', text)


def test_pages_hold_what_they_take_from_the_code(site):
    commands = (site / "commands.html").read_text()
    assert "usage: dir-jax train" in commands
    assert "--kapture-root DIR" in commands
    assert "{{" not in commands
    assert "learning_rate" in (site / "training.html").read_text()
    transforms = (site / "transforms.html").read_text()
    assert "can_upscale" in transforms
