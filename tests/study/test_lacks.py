"""A folder of one's own that has not all that a study reads: what can be run is, and of the rest it is said why not."""

from pathlib import Path

import pytest

from multimae.study import planning
from sweeps import alpha_ablation, modality_ablation
from sweeps.command import Command, main
from sweeps.options import parser_of

ENDINGS = {"rgb": "jpg"}


@pytest.fixture
def mine(tmp_path):
    """Makes a folder of empty files, which planning does not open: 40 images a split, and gives its name."""

    def make(*fields: str, classes: tuple[str, ...] = (".",), splits: tuple[str, ...] = ("train", "val")) -> str:
        for split in splits:
            for field in fields:
                for n in range(40):
                    folder = tmp_path / "mine" / split / field / classes[n % len(classes)]
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{n}.{ENDINGS.get(field, 'png')}").touch()
        return str(tmp_path / "mine")

    return make


def plan(study, folder: str) -> planning.Plan:
    args = parser_of(study).parse_args(["--data", folder, "--runs", str(Path(folder).parent / "runs")])
    return planning.plan(Command(study, args).wanted)


def reasons(study, folder: str) -> dict[str, set[str]]:
    """{why, without the paths: the stages that are blocked by it}."""
    found: dict[str, set[str]] = {}
    for entry in plan(study, folder).entries.values():
        if entry.status.state == "blocked":
            found.setdefault(entry.status.reason.partition(":")[0], set()).add(entry.run.cells[0][1])
    return found


@pytest.mark.parametrize("classes", [(".",), ("all",)], ids=["no class folder", "one"])
def test_photographs_without_classes_are_not_classified(mine, classes, capsys):
    folder = mine("rgb", "depth", "semseg", classes=classes)
    study, runs = alpha_ablation.study, ["--runs", str(Path(folder).parent / "runs")]
    assert reasons(study, folder) == {"needs labels": {"classify"}}
    planned = plan(study, folder)
    assert len(planned.todo) == 9 and len(planned.lacking()) == 5
    for how in ("--dry-run", "--status"):
        assert main(study, [how, "--data", folder, *runs]) == 0
        out = " ".join(capsys.readouterr().out.split())  # which a console has broken into lines
        assert out.count("– needs labels") == 5
        assert "needs labels: expected at least two class folders with images in " in out and "mine/train/rgb" in out
    (Path(folder).parent / "runs").mkdir()
    assert main(study, ["--table", "--data", folder, *runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines if line.startswith("alpha=0.2  ")] == [["needs", "labels"]]


def test_folders_that_only_sort_photographs_are_classes(mine):
    folder = mine("rgb", "depth", "semseg", classes=("2021", "2022"))
    assert not reasons(alpha_ablation.study, folder)


def test_of_photographs_alone_what_reads_no_other_modality_is_run(mine):
    folder = mine("rgb", classes=("cat", "dog"))
    planned = plan(modality_ablation.study, folder)
    assert [entry.run.label for entry in planned.todo] == ["MAE (D2) pretrain", "MAE (D2) classify"]
    assert len(planned.lacking()) == len(planned.entries) - 2  # also those that start from what is lacking
    found = reasons(modality_ablation.study, folder)
    assert found["needs depth"] == {"pretrain", "depth"} and found["needs semseg"] == {"pretrain", "segment_nyuv2"}
    assert found["needs normals, mask_valid, test"] == {"regress_normals"}
    assert found["RGB-D pretrain needs depth"] == {"classify"}


def test_photographs_that_lie_in_the_split_itself(tmp_path):
    for split in ("train", "val"):
        for n in range(40):
            (tmp_path / "mine" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "mine" / split / f"{n}.jpg").touch()
    planned = plan(modality_ablation.study, str(tmp_path / "mine"))
    assert [entry.run.label for entry in planned.todo] == ["MAE (D2) pretrain"]


def test_without_a_test_split_val_is_tested_on_unless_it_selects(mine):
    folder = mine("rgb", "depth", "semseg", "mask_valid", classes=("a", "b"))
    stages = plan(modality_ablation.study, folder).entries.values()
    splits = {entry.run.cells[0][1]: entry.run.config.data.eval_split for entry in stages}
    assert (splits["depth"], splits["segment_nyuv2"], splits["regress_depth"]) == ("val", "val", "test")
    assert reasons(modality_ablation.study, folder)["needs test"] == {"regress_depth"}


def test_with_one_it_is_tested_on(mine):
    folder = mine("rgb", "depth", "semseg", "mask_valid", classes=("a", "b"), splits=("train", "val", "test"))
    stages = plan(modality_ablation.study, folder).entries.values()
    splits = {entry.run.cells[0][1]: entry.run.config.data.eval_split for entry in stages}
    assert (splits["depth"], splits["regress_depth"]) == ("test", "test")
    assert "regress_depth" not in {stage for its in reasons(modality_ablation.study, folder).values() for stage in its}
