"""A preparation that is killed, stopped, done twice at once, or finds no room loses nothing that it has made."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slow_maker

from multimae.data.about import About
from multimae.data.prepare.command import main
from multimae.data.prepare.counting import Count, differences
from multimae.data.prepare.journal import Made
from multimae.data.prepare.pieces import Whole
from multimae.data.prepare.preparing import Making, holding
from multimae.data.prepare.progress import line
from multimae.data.prepare.writing import FolderWriter, Halted

HERE = Path(__file__).parent


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files if ".prepare" not in path.parts}


def begin(source: Path, root: Path) -> subprocess.Popen:
    """A preparation that waits in its third piece, and that its first two are made of."""
    (source / "GO").unlink(missing_ok=True)
    (source / "WAITS").unlink(missing_ok=True)
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[2])])
    command = [sys.executable, HERE / "slow_maker.py", "slow", source, root, "--jobs", "1"]
    begun = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True)
    until(lambda: (source / "WAITS").exists() and "piece 1" in (root / ".prepare/journal.jsonl").read_text())
    return begun


def until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().split()[2] == "Z"


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(b"as it was")
    return tmp_path / "in"


def test_killed_stopped_and_gone_on_with(source, tmp_path, capsys):
    root, whole = tmp_path / "out", tmp_path / "whole"
    (source / "GO").touch()
    (whole / ".prepare").mkdir(parents=True)
    for piece in slow_maker.SLOW.pieces(source):
        piece.make(FolderWriter(whole))

    killed = begin(source, root)
    worker = int((source / "WAITS").read_text())
    assert main(["slow", str(source), str(root)]) == 2
    assert f"another preparation of {root} is at work, process {killed.pid} of" in capsys.readouterr().err
    killed.kill()
    killed.communicate()
    until(lambda: gone(worker))  # nobody goes on in its name
    first = (root / "train/rgb/c0/0.jpg").stat()
    assert set(tree(root).items()) < set(tree(whole).items())  # no half of a file has a name

    stopped = begin(source, root)
    stopped.send_signal(signal.SIGINT)  # the piece ends with its next file
    _, said = stopped.communicate()
    assert stopped.returncode == 130 and said.endswith("stopped; the same command goes on\n")
    assert "2 are made already" in said and "Traceback" not in said
    assert "piece 2" not in (root / ".prepare/journal.jsonl").read_text()

    (source / "GO").touch()
    assert main(["slow", str(source), str(root)]) == 0
    about = tree(root)
    assert About.of(root) == About(name="slow", splits={"train": 12}) and about.pop("dataset.yaml")
    assert about == tree(whole)
    assert {path.name for path in (root / ".prepare").iterdir()} == {"lock", "journal.jsonl"}
    assert (root / "train/rgb/c0/0.jpg").stat().st_ino == first.st_ino  # not made again

    (source / "a.tar").write_bytes(b"otherwise")
    assert main(["slow", str(source), str(root)]) == 2
    assert f"{root} was begun from another source:\n  a.tar: was 9 bytes of" in capsys.readouterr().err


def test_a_full_disk_ends_it_in_one_line_and_what_is_made_is_kept(source, tmp_path, capsys):
    (source / "GO").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = [len(slow_maker.jpeg(10 * number)) for number in range(slow_maker.PIECES)]
    argv = ["slow", str(source), str(tmp_path / "out"), "--jobs", "1"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) - 1, hard))  # as a full disk, an error of the system's
    try:
        assert main(argv) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("multimae data prepare: ") and "could not be written: File too large. What" in said[-1]
    assert not (tmp_path / "out/dataset.yaml").exists()
    assert main(argv) == 0


def test_a_writer_keeps_to_its_folder(tmp_path):
    (tmp_path / "out/.prepare").mkdir(parents=True)
    (tmp_path / "away").mkdir()
    writer = FolderWriter(tmp_path / "out")
    for name in ("../evil", "a/../../evil", "/evil", "a//b", "", ".", "a\\b", ".prepare/lock", "a\0b"):
        with pytest.raises(ValueError, match="leads out of"):
            writer.write(name, b"")
    (tmp_path / "out/train").symlink_to(tmp_path / "away")
    with pytest.raises(ValueError, match="leads through a link to .*away.*: remove the link"):
        writer.write("train/rgb/a.jpg", b"")
    writer.write("val/rgb/a.jpg", b"1")
    with pytest.raises(ValueError, match="there are two files for val/rgb/a.jpg"):
        writer.write("val/rgb/a.jpg", b"2")
    assert tree(tmp_path / "away") == {} and tree(tmp_path / "out") == {"val/rgb/a.jpg": b"1"}
    (tmp_path / "out/file").touch()
    with pytest.raises(Halted, match="out/file/a.jpg could not be written: File exists"):
        writer.write("file/a.jpg", b"")
    again = FolderWriter(tmp_path / "out")
    again.keep("val/rgb/b.jpg", tmp_path / "out/val/rgb/a.jpg")
    FolderWriter(tmp_path / "out").keep("val/rgb/b.jpg", tmp_path / "out/val/rgb/a.jpg")  # as it is there already
    assert again.linked == 1 and (tmp_path / "out/val/rgb/b.jpg").samefile(tmp_path / "out/val/rgb/a.jpg")
    with pytest.raises(ValueError, match="nowhere could not be read: No such file"):
        again.keep("val/rgb/c.jpg", tmp_path / "nowhere")
    assert sorted(path.name for path in (tmp_path / "out/.prepare").iterdir()) == []


def test_after_a_power_cut_only_what_reached_the_disk_counts(tmp_path, monkeypatch):
    root = tmp_path / "out"
    boot = "multimae.data.prepare.journal._boot"

    def session(*names: str, sync: bool) -> None:
        with holding(root):
            made = Made(root, "slow")
            made.open({})
            for name in names:
                made.add(name, 1, {"train/rgb/c": 1}, 1)
            if sync:
                made.sync()
                made.add("after", 1, {"train/rgb/c": 1}, 1)
            made.close()
            (made.file).open("a").write('{"piece": "torn", "re')  # by a kill

    session("a", "b", sync=False)
    assert list(Made(root, "slow").pieces) == ["a", "b"]  # a kill is no power cut
    monkeypatch.setattr(boot, lambda: "the second")
    assert not Made(root, "slow").pieces
    session("b", sync=False)
    assert list(Made(root, "slow").pieces) == ["b"]  # `a` was not made again
    session("a", sync=True)
    assert list(Made(root, "slow").pieces) == ["b", "a", "after"]
    monkeypatch.setattr(boot, lambda: "the third")
    assert list(Made(root, "slow").pieces) == ["b", "a"]
    with pytest.raises(ValueError, match="holds slow .* and not other"):
        Made(root, "other")


def test_what_is_said():
    state = Making(total=10, bytes=2_000_000, made=3, read=1_000_000, failed={"x": "why"})
    said = " 50 %  14 of 20 pieces  1.0 MB of 2.0 MB  100.0 kB/s  10 s left  1 could not be made"
    assert line(state, 10, seconds=10) == said
    assert line(Making(total=4, bytes=0, made=1), 0, seconds=5) == " 25 %  1 of 4 pieces  0.2 pieces/s  15 s left"
    assert line(Making(total=4, bytes=0, made=1), 0, seconds=2) == " 25 %  1 of 4 pieces  0.5 pieces/s"
    about = About(name="x", home="here", splits={"train": 5, "val": 2})
    found = {"train": Count(3, ("rgb",), {"a": 1, "b": 2}, ("b.png missing",))}
    assert differences(found, Whole(about, {"train": {"a": 3, "b": 2}})) == [
        "train: 1 samples lack a file:", "  b.png missing", "train: expected 5 samples, found 3",
        "  1 of 2 classes: a (1 of 3)", "val: expected 2 samples, found 0",
    ]  # fmt: skip
