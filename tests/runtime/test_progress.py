"""Progress where there is no terminal: lines of their own, with the time that is left."""

import re

from dir_jax.runtime.progress import progress_bar


def test_lines_without_a_terminal(capsys):
    with progress_bar("train", 8, "img", shown=True, done=2) as outer:
        outer.mininterval = 0
        with progress_bar("evaluate", 4, "img", shown=True) as inner:
            inner.mininterval = 0
            inner.update(4)
        outer.update(6)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("train: 2 of 8 img")
    assert any(re.match(r"evaluate: 4 of 4 img, .*00:00 left", line) for line in lines)
    assert all(line.strip() and line.isprintable() for line in lines)
    with progress_bar("quiet", 8, "img", shown=False) as bar:
        bar.update(8)
    assert not capsys.readouterr().err
