"""Every study at every scale, pinned; and the command line that all studies share.

After a change that is meant to make other runs of these rows: `python tests/test_sweeps.py`, and commit what it writes.
"""

import argparse
import importlib
import json
import math
import os
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training import tiny_study

import sweeps
from analysis import tables
from analysis.paper import paper_tables
from multimae.config import SCALES, Pretrain, SelfAttending, build, recipe
from multimae.config.settings import flatten
from multimae.record.folder import RunFolder
from multimae.study import only, runs_of
from multimae.study.arguments import add_study_arguments, all_rows, runtime_from, study_words
from multimae.study.cost import gpu_hours
from multimae.study.study import Row, Study
from slurm import scheduler
from sweeps import costs
from sweeps.command import Command, main
from sweeps.options import parser_of
from sweeps.paper import mae

GOLDEN = Path(__file__).parent / "golden"
NO_STUDIES = ("command", "costs", "finetune_lr", "label", "options", "paper", "register", "results")
ALL = [module.name for module in pkgutil.iter_modules(sweeps.__path__) if module.name not in NO_STUDIES]
STUDIES = [name for name in ALL if name != "all"]  # which has no row of its own


def study_named(name: str):
    return importlib.import_module(f"sweeps.{name}").study


def pinned(name: str) -> dict:
    """{scale: {stage: {"common": settings of all rows, row: [signature, settings of this row]}}}."""
    scales = {}
    for scale in SCALES:
        rows = study_named(name).build(scale)
        stages = scales[scale] = {}
        for stage in dict.fromkeys(stage for row in rows for stage in row.stages):
            configs = {row.name: row.stages[stage] for row in rows if stage in row.stages}
            settings = {row: flatten(config.resolved()) for row, config in configs.items()}
            first = next(iter(settings.values()))
            common = {key: value for key, value in first.items() if all(s.get(key) == value for s in settings.values())}
            stages[stage] = {"common": common} | {
                row: [configs[row].signature, {k: v for k, v in s.items() if k not in common}]
                for row, s in settings.items()
            }
    return json.loads(json.dumps(scales))


@pytest.mark.parametrize("name", STUDIES)
def test_no_row_has_changed(name):
    file, found = GOLDEN / f"{name}.json", pinned(name)
    assert file.exists(), f"{file} pins this study's runs, and is not there: python tests/test_sweeps.py, and commit it"
    golden = json.loads(file.read_text())
    was, now = flatten(golden), flatten(found)
    changed = [f"{key}: {was.get(key)} -> {now.get(key)}" for key in was | now if was.get(key) != now.get(key)]
    assert found == golden, (
        "These runs are no longer those that were run before:\n  "
        + "\n  ".join(changed[:20])
        + "\nIf that is meant: python tests/test_sweeps.py, and commit tests/golden."
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", STUDIES)
def test_configs_survive_their_yaml(name, scale, tmp_path):
    for row in study_named(name).build(scale):
        for config in row.stages.values():
            assert build(config.resolved()).signature == config.signature


@pytest.mark.parametrize("scale", SCALES)
def test_table_10_is_the_papers_study(scale):
    rows = study_named("alpha_ablation").build(scale)
    if scale != "paper":
        *rows, scratch = rows
        assert (scratch.name, scratch.aside) == (
            "from scratch",
            "not in the paper",
        ) and "pretrain" not in scratch.stages
        assert all(config.init == "scratch" for config in scratch.stages.values())
    assert [row.name for row in rows] == ["alpha=0.2", "alpha=0.5", "alpha=1", "alpha=inf"]
    assert [row.stages["pretrain"].masking.alpha for row in rows] == [0.2, 0.5, 1, math.inf]
    for row in rows:
        pretrain, *transfers = row.stages.values()
        assert pretrain.targets == ("rgb", "depth", "semseg")
        assert scale != "paper" or pretrain.epochs == 400
        assert [t.task for t in transfers] == ["classify", "segment"]
        assert {t.needs for t in transfers} == {(pretrain.signature,)}
        assert {t.inputs for t in transfers} == {("rgb",)}


@pytest.mark.parametrize("scale", SCALES)
def test_table_15_times_the_papers_models_alone(scale):
    rows = {row.name: row for row in study_named("epoch_time").build(scale)}
    assert list(rows) == list(paper_tables()["15"].rows)
    configs = {name: row.stages["pretrain"] for name, row in rows.items()}
    assert {row.alone for row in rows.values()} == {("pretrain",)}
    assert len({(config.batch_size, config.optimizer, config.data, config.epochs) for config in configs.values()}) == 1
    flat, deep = configs["MAE (D2)"], configs["MAE (D8)"]
    assert flat.edit({"decoder": deep.decoder.model_dump()}) == deep
    if scale == "paper":
        visible = {name: config.masking.visible_tokens for name, config in configs.items()}
        assert visible == {name: row["visible_tokens"] for name, row in paper_tables()["15"].rows.items()}
        assert deep.decoder == SelfAttending() and flat.decoder == SelfAttending(dim=256, depth=2, heads=8)
        assert configs["MultiMAE"] == Pretrain(epochs=2).edit(
            {"data.train_samples": 1281167, "optimizer.warmup_epochs": 0.5}
        )


@pytest.mark.slow
def test_an_epoch_is_timed_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    study, tiny = study_named("epoch_time"), {"data.train_samples": 64, "data.eval_samples": 8, "model.depth": 1}
    edits = [word for key, value in tiny.items() for word in ("--set", f"pretrain.{key}={value}")]
    words = [*edits, "--only", "MAE (D2)", "--only", "MultiMAE, w/ [M]", "--runs", str(tmp_path)]
    assert main(study, words) == 0
    assert "1 thread each, alone, fp32, epochs after the first of an attempt" in capsys.readouterr().out
    results = tables.read(tmp_path, study.build("smoke", {"pretrain": tiny}))
    frame = tables.build(study.tables[1], "smoke", results)
    found = frame.pivot(index="row", columns="key", values="value").loc["MultiMAE, w/ [M]"]
    assert found["visible_tokens"] == 16 and (found > 0).all() and found["cores"] < 2 and found["utilization"] < 100
    assert found["epoch"] == pytest.approx(64 / found["images_per_second"] / 60)


PAPERS = {  # STUDIES.md's list: inputs, targets, visible tokens of what the rows start from
    ("modality_ablation", "MAE (D2)"): (["rgb"], ["rgb_standardized"], 49),
    ("modality_ablation", "RGB-D"): (["rgb", "depth"], ["rgb", "rgb_standardized", "depth"], 98),
    ("modality_ablation", "RGB-S"): (["rgb", "semseg"], ["rgb", "rgb_standardized", "semseg"], 98),
    ("modality_ablation", "RGB-D-S"): (
        ["rgb", "depth", "semseg"], ["rgb", "rgb_standardized", "depth", "semseg"], 98
    ),
    ("nonmasked_baselines", "RGB->D"): (["rgb"], ["depth"], None),
    ("nonmasked_baselines", "RGB->S"): (["rgb"], ["semseg"], None),
    ("nonmasked_baselines", "RGB->D-S"): (["rgb"], ["depth", "semseg"], None),
    ("decoder_depth", "MAE (D2, PyTorch)"): (["rgb"], ["rgb_standardized"], 49),
    ("decoder_depth", "MAE (D8, PyTorch)"): (["rgb"], ["rgb_standardized"], 49),
}  # fmt: skip


@pytest.mark.parametrize("name, row", PAPERS)
def test_the_papers_pre_trainings(name, row):
    (config,) = (each.stages["pretrain"] for each in study_named(name).build("paper") if each.name == row)
    inputs, targets, visible = PAPERS[name, row]
    assert (list(config.inputs), list(config.targets)) == (inputs, targets)
    assert getattr(config.masking, "visible_tokens", None) == visible
    assert config.epochs == (1600 if name == "decoder_depth" else 400)
    if row.startswith("MAE"):  # He et al.: batch 4096, 1.5e-4 x 16, no decay of biases and norms, a norm at the end
        assert config.batch_size == 4096 and config.lr == pytest.approx(2.4e-3)
        assert not config.optimizer.decay_all and config.decoder.input_norm
        size = (config.decoder.depth, config.decoder.dim, config.decoder.heads)
        assert size == ((8, 512, 16) if "D8" in row else (2, 256, 8))
    else:
        assert config.batch_size == 2048 and config.optimizer.decay_all


def test_runs_that_studies_share_are_one():
    """14 pre-trainings of STUDIES.md but P1 (Tables 1 and 15 have it), and the timed ones; 155 transfers less those
    of Tables 1, 2, 3 and 7, that Table 14 does not have."""
    studies = [study for study in study_named("all").parts if study.published]
    runs = runs_of([row for study in studies for row in study.build("paper")])
    of = [config for config in (run.config for run in runs.values()) if config.task == "pretrain"]
    timed = [config for config in of if config.epochs == 2]
    assert len(timed) == 4 and len(of) - len(timed) == 13
    transfers = [run for run in runs.values() if run.config.task != "pretrain"]
    assert len(transfers) == 44 + 33 + 8 + 15  # Tables 4a with 12, 4b with 13 but for the shared row, 10, 14
    assert {config.truth_field for config in (run.config for run in transfers) if config.task == "regress"} == {
        "curvature", "depth", "edges", "occlusion", "keypoints2d", "keypoints3d", "normals", "reshading"
    }  # fmt: skip
    one, other = (
        next(row for row in study_named(name).build("paper") if row.name == label)
        for name, label in (("modality_ablation", "RGB-D-S"), ("nonmasked_baselines", "MultiMAE"))
    )
    assert one.stages == other.stages


def test_columns_of_three_data_sets_are_three_runs():
    (row, *_) = study_named("decoder_depth").build("smoke")
    stages = {stage: row.stages[stage] for stage in ("segment", "segment_hypersim", "segment_nyuv2")}
    assert len({config.signature for config in stages.values()}) == 3
    assert len({config.data.name for config in stages.values()}) == 3


# ---- all of them together


def test_all_studies_are_planned_together(tmp_path, capsys):
    words = ["--runs", str(tmp_path / "runs"), "--dry-run", "--scale", "paper"]
    assert main(study_named("all"), words) == 0
    out = capsys.readouterr().out
    assert "modality_ablation:RGB-D-S" in out and "same run as above" in out
    lines = [line for line in out.splitlines() if "GPU-hours  " in line]
    assert len(lines) == len(study_named("all").parts) + 1
    hours = [float(line.split()[0].replace(",", "")) for line in lines]
    assert "(not in the paper)" in lines[-2] and "all of the paper's" in lines[-1]
    assert max(hours[:-2]) < hours[-1] < sum(hours[:-2])  # what is shared counts once


def test_rows_and_settings_are_named_as_in_one_study(tmp_path, capsys):
    words = ["--runs", str(tmp_path / "runs"), "--dry-run", "--only", "modality_ablation:RGB-D"]
    assert main(study_named("all"), [*words, "--set", "pretrain.epochs=7", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    (alone,) = only(study_named("modality_ablation").build("smoke", {"pretrain": {"epochs": 7, "seed": 3}}), ["RGB-D"])
    assert alone.stages["pretrain"].signature in out and "nonmasked" not in out.partition("Would run")[0]
    assert main(study_named("all"), [*words[:3], "--only", "RGB-D"]) == 2
    assert "modality_ablation:RGB-D" in capsys.readouterr().err
    assert main(study_named("all"), [*words[:3], "--set", "clasify.epochs=7"]) == 2
    assert "did you mean 'classify'" in capsys.readouterr().err


def test_a_stage_keeps_what_it_is_named_for(tmp_path, capsys):
    words = ["--runs", str(tmp_path / "runs"), "--dry-run", "--set"]
    assert main(study_named("modality_ablation"), [*words, "regress_depth.target=normals"]) == 2
    assert "regress_depth.target is what the stage is named for" in capsys.readouterr().err
    assert main(study_named("modality_ablation"), [*words, "regress_depth.epochs=3"]) == 0


def test_weights_that_are_not_given_stop_no_other_run(tmp_path, capsys):
    words = ["--runs", str(tmp_path / "runs"), "--dry-run"]
    assert main(study_named("decoder_depth"), words) == 0
    told = capsys.readouterr()
    assert "Would run 12 runs" in told.out and "--weights vit_base_patch16_224.mae=FILE" in told.out
    assert "--weights vit_base_patch16_224.mae=FILE" in told.err


def test_the_table_of_gpu_hours_is_todays():
    """And that of the README, which is made by `python sweeps/costs.py`."""
    found = costs.table()
    assert found == (GOLDEN / "gpu_hours.md").read_text()
    head, told = found.splitlines()[0], (GOLDEN.parents[1] / "README.md").read_text()
    assert head not in told or found in told


def test_the_lab_scale_follows_the_published_rules():
    """Rates by the batch, heads by the encoder's width; and Table 10 is a day of four GPUs, if they reach a third of
    the assumed rate."""
    for name in ("pretrain", "classify", "segment", "segment_nyuv2", "segment_hypersim", "depth", "regress"):
        lab, paper = recipe(name, "lab"), recipe(name, "paper")
        assert (lab.model.dim, lab.model.depth, lab.model.heads) == (384, 12, 6)  # ViT-S
        assert (lab.model.image_size, lab.model.patch_size) == (paper.model.image_size, paper.model.patch_size)
        assert lab.optimizer.base_lr == paper.optimizer.base_lr and lab.epochs < paper.epochs
        assert lab.data.name == paper.data.name.replace("imagenet", "imagenet100")
    his = mae("lab", deep=True)
    assert (his.batch_size, his.lr) == (1024, 1.5e-4 * 1024 / 256)
    hours = gpu_hours(runs_of(study_named("alpha_ablation").build("lab")))
    assert 3 * hours < 4 * 24


# ---- the command line


def test_bf16_without_a_gpu_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    study, runs = study_named("alpha_ablation"), ["--runs", str(tmp_path)]
    assert main(study, ["--dry-run", "--scale", "mini", *runs]) == 0
    assert "14 runs compute in bf16" in capsys.readouterr().err
    fp32 = [word for stage in ("pretrain", "classify", "segment") for word in ("--set", f"{stage}.precision=fp32")]
    assert main(study, ["--dry-run", "--scale", "mini", *fp32, *runs]) == 0
    assert not capsys.readouterr().err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert main(study, ["--dry-run", "--scale", "mini", *runs]) == 0
    assert "bf16" not in capsys.readouterr().err


def test_a_dry_run_on_a_cluster_prints_the_exact_scripts_and_writes_nothing(tmp_path, capsys):
    runs = tmp_path / "runs"
    assert main(study_named("alpha_ablation"), ["--cluster", "site", "--dry-run", "--runs", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "paper scale" in out and "GPU-hours" in out  # as the profile says
    assert out.count("#!/bin/bash") == 3 and out.count("aftercorr:<job of pretrain>") == 2
    assert not runs.exists()


def test_the_command_line_goes_before_the_profile(tmp_path, capsys):
    words = ["--cluster", "site", "--dry-run", "--scale", "mini", "--only", "alpha=1", "--runs", str(tmp_path)]
    assert main(study_named("alpha_ablation"), words) == 0
    out = capsys.readouterr().out
    assert "mini scale" in out and str(tmp_path) in out and "alpha=0.5" not in out


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], ""),
        (["--scale", "paper"], ""),  # as the profile says
        (["--only", "alpha=1", "--set", "pretrain.epochs=20"], " --only alpha=1 --set pretrain.epochs=20"),
        (["--runs", "/my runs", "--scale", "mini"], " --scale mini --runs '/my runs'"),
    ],
    ids=str,
)
def test_the_command_that_is_told_sees_the_same_rows(words, expected):
    """A --retry-failed without the --set would submit the whole study as published."""
    study = study_named("alpha_ablation")
    command = Command(study, parser_of(study).parse_args(["--cluster", "site", *words]))
    assert command.again() == f"python sweeps/alpha_ablation.py --cluster site{expected}"


def given(runs: Path, row: int = 0) -> None:
    """To a cluster, as job 5."""
    config = study_named("alpha_ablation").build("smoke")[row].stages["pretrain"]
    folder = RunFolder.of(runs, config.signature)
    folder.create(config)
    where = {"study": "alpha_ablation", "scale": "smoke", "row": "a", "stage": "pretrain"}
    folder.jobs.write("submitted", job="slurm:5", cluster="site", **where)


def test_a_cancel_that_cannot_know_what_runs_says_so(tmp_path, monkeypatch, capsys):
    given(tmp_path)
    monkeypatch.setattr(scheduler, "query", lambda ids: None)
    assert main(study_named("alpha_ablation"), ["--cancel", "--runs", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "1 runs were left alone" in said.err and "nothing" not in said.out


def test_a_cancel_of_some_rows_leaves_what_other_rows_need(tmp_path, monkeypatch, capsys):
    (row, *_) = study_named("alpha_ablation").build("smoke")
    rows = [Row("a", row.stages), Row("b", {"pretrain": row.stages["pretrain"]})]
    study = Study("alpha_ablation", "Shared", lambda scale: rows)
    cancelled = []
    given(tmp_path)
    monkeypatch.setattr(scheduler, "query", lambda ids: {"5": scheduler.SchedulerJob("5", "site", "RUNNING")})
    monkeypatch.setattr(scheduler, "cancel", lambda jobs: cancelled.extend(jobs) or set())
    assert main(study, ["--cancel", "--only", "a", "--runs", str(tmp_path)]) == 0
    assert cancelled == [] and "1 runs go on" in capsys.readouterr().err
    assert main(study, ["--cancel", "--runs", str(tmp_path)]) == 0
    assert cancelled == ["5"]


def test_a_scheduler_that_cannot_cancel_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    def down(ids):
        raise scheduler.Unreachable("Unable to contact slurm controller")

    given(tmp_path)
    monkeypatch.setattr(scheduler, "query", lambda ids: {"5": scheduler.SchedulerJob("5", "site", "RUNNING")})
    monkeypatch.setattr(scheduler, "cancel", down)
    assert main(study_named("alpha_ablation"), ["--cancel", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "alpha_ablation: Unable to contact slurm controller\n"


def rows_of(args: argparse.Namespace, study: Study = tiny_study) -> tuple[Row, ...]:
    return only(all_rows(study, args), args.only)


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_study_arguments(parser)
    parser.set_defaults(scale="smoke", runs=Path("runs"))  # as without a profile
    return parser.parse_args(words)


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--only", "alpha=2"], ["unknown row 'alpha=2'", "Valid: alpha=1, alpha=0.5"]),
        (["--scale", "smok"], ["unknown scale 'smok'", "did you mean 'smoke'"]),
        (["--set", "pretrain.epoch=2"], ["unknown key 'epoch'", "did you mean 'epochs'"]),
        (["--set", "pretran.epochs=2"], ["unknown stage 'pretran'", "did you mean 'pretrain'"]),
        (["--set", "epochs=2"], ["STAGE.KEY=VALUE", "pretrain.epochs=20", "'epochs=2'"]),
        (["--set", "pretrain.epochs=many"], ["pretrain: epochs", "'many'"]),
        (["--set", "pretrain.epochs=[1"], ["[1", "YAML"]),
        (["--data", "nowhere"], ["nowhere/train", "no such folder"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--jobs", "0"], ["--jobs", "0"]),
        (["--cluster", "sit"], ["unknown profile 'sit'", "did you mean 'site'", "devcluster"]),
        (["--cluster", "site", "--jobs", "2"], ["--jobs", "max_jobs"]),
    ],
)
@pytest.mark.parametrize("how", ["--dry-run", "--status"])
def test_a_mistake_is_told_in_one_line(how, words, expected, tmp_path, capsys):
    assert main(tiny_study, [how, "--runs", str(tmp_path), *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert all(part in err for part in expected), err


def test_settings_and_seed_reach_the_stages():
    args = parsed("--set", "pretrain.epochs=20", "--set", "classify.drop_path=0.3", "--seed", "7")
    for row in rows_of(args):
        assert {config.seed for config in row.stages.values()} == {7}
        assert row.stages["pretrain"].epochs == 20 and row.stages["classify"].drop_path == 0.3
        assert row.stages["segment"].needs == (row.stages["pretrain"].signature,)


def test_the_words_for_another_command_give_the_same_rows():
    args = parsed("--set", "pretrain.epochs=20", "--only", "alpha=0.5", "--seed", "3", "--runs", "elsewhere")
    again = parsed(*study_words(args))
    assert again == args
    assert rows_of(again) == rows_of(args)


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of three classes, ten files a split, whose contents nobody reads here."""
    for split in ("train", "val"):
        for modality, ending in (("rgb", "jpg"), ("depth", "png"), ("semseg", "png")):
            for i in range(10):
                file = tmp_path / "pets" / split / modality / f"class{i % 3}" / f"{i}.{ending}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
    return tmp_path / "pets"


def test_own_data_goes_to_every_stage(images):
    args = parsed("--data", str(images))
    for row in rows_of(args):
        assert {config.data.name for config in row.stages.values()} == {"pets"}
        assert {config.data.train_samples for config in row.stages.values()} == {None}  # all: there are no 4096
        assert row.stages["classify"].classes == 3
        assert row.stages["classify"].needs == (row.stages["pretrain"].signature,)
    assert runtime_from(args).data_roots == {"pets": images}

    (images / "dataset.yaml").write_text("name: pets\nfields: {depth: {unit: 0.001}, semseg: {classes: [a, b]}}\n")
    row = rows_of(args)[0]
    assert row.stages["pretrain"].data.depth_unit == 0.001 and row.stages["segment"].classes == 2


def test_own_data_may_lie_in_ones_home(images, monkeypatch):
    monkeypatch.setenv("HOME", str(images.parent))
    assert runtime_from(parsed("--data", "~/pets")).data_roots == {"pets": images}


def test_own_data_that_suffices_is_cut_as_in_the_recipe(images):
    rows = rows_of(parsed("--data", str(images), "--set", "pretrain.data.train_samples=20"))
    assert rows[0].stages["pretrain"].data.train_samples == 20
    study = Study("s", "t", lambda scale: [Row("a", {"pretrain": Pretrain().edit({"data.train_samples": 7})})])
    assert rows_of(parsed("--data", str(images)), study)[0].stages["pretrain"].data.train_samples == 7


def test_a_set_wins_over_own_data(images):
    args = parsed("--data", str(images), "--set", "segment.classes=40", "--set", "segment.zero_is_unlabelled=true")
    segment = rows_of(args)[0].stages["segment"]
    assert segment.classes == 40 and segment.zero_is_unlabelled


def test_a_named_folder_places_a_dataset_and_changes_no_run(images):
    args = parsed("--data", f"imagenet={images}", "--data", f"ade20k={images}")
    assert rows_of(args) == rows_of(parsed())
    assert runtime_from(args).data_roots == {"imagenet": images, "ade20k": images}


def test_dry_run_writes_nothing_and_names_every_run(tmp_path, capsys):
    assert main(tiny_study, ["--dry-run", "--runs", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    for row in tiny_study.build("smoke"):
        assert all(config.signature in out for config in row.stages.values())
    assert "GPU-hours" in out and "assumed" in out
    assert not (tmp_path / "runs").exists()


# ---- the whole of it


@pytest.mark.slow
def test_the_main_job_through_a_ctrl_c(tmp_path):
    script = Path(__file__).parent.parent / "sweeps/alpha_ablation.py"
    words = ["--only", "alpha=1", "--runs", str(tmp_path / "runs"), "--jobs", "2"]
    for stage in ("pretrain", "classify", "segment"):
        edits = {"epochs": 2, "data.train_samples": 256, "data.eval_samples": 64, "data.render_size": 64}
        words += [word for key, value in edits.items() for word in ("--set", f"{stage}.{key}={value}")]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = {"args": [sys.executable, str(script), *words], "cwd": tmp_path, "env": environment, "text": True}

    first = subprocess.Popen(**command, stdout=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/heartbeat.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGINT)
    out, _ = first.communicate(timeout=120)
    assert first.returncode == 130 and "same command" in out

    second = subprocess.run(**command, stdout=subprocess.PIPE, timeout=400)
    assert second.returncode == 0
    assert "Table 10" in second.stdout and "not comparable" in second.stdout
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*")}
    third = subprocess.run(**command, stdout=subprocess.PIPE, timeout=120)
    assert third.returncode == 0 and "done already" in third.stdout
    assert third.stdout[third.stdout.index("Table 10.") :] == second.stdout[second.stdout.index("Table 10.") :]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*")}


if __name__ == "__main__":
    for name in STUDIES:
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / f"{name}.json").write_text(json.dumps(pinned(name), indent=1) + "\n")
    (GOLDEN / "gpu_hours.md").write_text(costs.table())
