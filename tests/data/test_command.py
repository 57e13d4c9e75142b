"""`multimae data`: each subcommand has its own help, and is imported when it is asked for."""

import subprocess
import sys

import pytest

from multimae.cli import main
from multimae.data.command import COMMANDS


def test_what_there_is_is_listed(capsys):
    for argv in (["data", "--help"], ["data"], ["data", "prepair"]):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == (0 if "--help" in argv else 2)
        said = "".join(capsys.readouterr())
        assert all(name in said for name in COMMANDS)
    with pytest.raises(SystemExit):
        main(["data", "prepare", "--help"])
    assert capsys.readouterr().out.startswith("usage: multimae data prepare ")


def test_preparing_imports_nothing_heavy():
    code = "import sys; from multimae.cli import main; main('data prepare imagenet x y'.split()); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "multimae.data.prepare.imagenet" in done.stdout.split() and "SOURCE x is not there" in done.stderr
    assert not {"torch", "pandas", "scipy", "h5py"}.intersection(done.stdout.split())
