"""Folders of runs: files that are torn, empty, gone, edited, of another kind or of an older version."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml
from synthetic_runs import SyntheticRun

from multimae.config import RunConfig, build, recipe
from multimae.record.folder import RunFolder
from sweeps.alpha_ablation import study

from . import Case

TINY = {
    "task": "classify",
    "classes": 10,
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
    "data": {"name": "scenes", "render_size": 32, "train_samples": 16, "eval_samples": 9},
    "model": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2, "semseg_classes": 14},
    "optimizer": {"warmup_epochs": 0},
    "augmentation": {"rand_augment": None},
}
RUN = "multimae run tiny.yaml --no-track --runtime threads=1"
STATUS, PLAN = "python sweeps/alpha_ablation.py --status", "python sweeps/alpha_ablation.py --dry-run"
TABLE = "python sweeps/alpha_ablation.py --table"
SOURCE = recipe("pretrain", "smoke").edit({"model": TINY["model"]})  # what a transfer starts from

Damage = Callable[[RunFolder], None]


def done(damage: Damage) -> Callable[[Path], None]:
    """The run of tiny.yaml is done; then something happens to its folder."""

    def prepare(folder: Path) -> None:
        (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
        damage(SyntheticRun(folder / "runs", build(TINY)).whole().folder)

    return prepare


def begun(damage: Damage) -> Callable[[Path], None]:
    """The same, of a run that has only started."""

    def prepare(folder: Path) -> None:
        (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
        run = SyntheticRun(folder / "runs", build(TINY))
        run.start(pid=2**22 - 1)
        damage(run.folder)

    return prepare


def in_study(damage: Damage, stage: str = "classify") -> Callable[[Path], None]:
    """All of the first row of the study is done; then something happens to the folder of one of its stages."""

    def prepare(folder: Path) -> None:
        row = study.build("smoke")[0]
        for config in row.stages.values():
            SyntheticRun(folder / "runs", config).whole()
        damage(RunFolder.of(folder / "runs", row.stages[stage].signature))

    return prepare


def source(damage: Damage) -> Callable[[Path], None]:
    """A pre-training is done, from which tiny.yaml is to start."""

    def prepare(folder: Path) -> None:
        (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"init": f"run:{SOURCE.signature}"}))
        damage(SyntheticRun(folder / "runs", SOURCE).whole().folder)

    return prepare


# ---- what happens


def edit(**changes) -> Damage:
    def damage(folder: RunFolder) -> None:
        values = yaml.safe_load(folder.config_file.read_text()) | changes
        folder.config_file.write_text(yaml.safe_dump(values))

    return damage


def write(name: str, contents: str | bytes) -> Damage:
    def damage(folder: RunFolder) -> None:
        path = folder.path / name
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)

    return damage


def twice(folder: RunFolder) -> None:
    folder.config_file.write_text(folder.config_file.read_text() + "task: classify\n")


def remove(name: str) -> Damage:
    return lambda folder: (folder.path / name).unlink()


def folder_at(name: str) -> Damage:
    def damage(folder: RunFolder) -> None:
        (folder.path / name).unlink(missing_ok=True)
        (folder.path / name).mkdir()

    return damage


def append(name: str, *records: object) -> Damage:
    def damage(folder: RunFolder) -> None:
        with open(folder.path / name, "a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    return damage


def prepend(*records: object) -> Damage:
    """To the journal: the first record of a kind is what readers ask for."""

    def damage(folder: RunFolder) -> None:
        lines = [json.dumps({"time": 1.0, "kind": "data"} | record) + "\n" for record in records]
        folder.journal.path.write_text("".join(lines) + folder.journal.path.read_text())

    return damage


def rename_to(config: RunConfig) -> Damage:
    return lambda folder: folder.path.rename(folder.path.with_name(config.signature))


def a_file_instead(folder: RunFolder) -> None:
    shutil.rmtree(folder.path)
    folder.path.write_text("")


def weights_about(what: object) -> Damage:
    header = json.dumps({"__metadata__": what}).encode()
    return lambda folder: folder.weights.write_bytes(len(header).to_bytes(8, "little") + header)


def link_to(target: str, name: str) -> Damage:
    def damage(folder: RunFolder) -> None:
        path = folder.path / name
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return damage


def half_the_weights(folder: RunFolder) -> None:
    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"encoder.global_token": tensor}).encode()
    folder.weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(9))


def weights_gone_and_needed(folder: RunFolder) -> None:
    folder.weights.unlink()
    segment = study.build("smoke")[0].stages["segment"]
    shutil.rmtree(folder.path.with_name(segment.signature))


def submitted(**fields) -> Callable[[Path], None]:
    """A run that is not done, with one record in jobs.jsonl."""

    def damage(folder: RunFolder) -> None:
        folder.journal.path.unlink()
        append("jobs.jsonl", {"time": 1.0, "kind": "submitted"} | fields)(folder)

    return in_study(damage)


def checkpoints_remain(folder: RunFolder) -> None:
    (folder.checkpoints / "step-00000040").mkdir(parents=True)


def nothing(folder: RunFolder) -> None:
    pass


SAMPLES = {"n": 9, "fingerprint": "f00d"}
LEAST = {"train": SAMPLES, "eval": SAMPLES, "learnt": None, "fields": None, "classes": None}
SHAPELESS = [LEAST | {"train": {}}, LEAST | {"eval": {"n": 9}}, LEAST | {"train": SAMPLES | {"fingerprint": ["x"]}}]
SHAPELESS += [LEAST | {key: value} for key in ("learnt", "fields", "classes") for value in (5, [5], "rgb", {})]
SHAPELESS += [LEAST | {"root": 5}]
BEAT = {"time": 1.0, "pid": 1, "host": "elsewhere", "state": "training"}

CASES = [
    # config.yaml against the name and the journal
    Case(
        "config.yaml of a done run, edited",
        RUN,
        "epochs: found 9.0, expected 1.0.*edited after",
        2,
        done(edit(epochs=9)),
    ),
    Case(
        "the same of a begun run",
        RUN,
        "batch_size: found 4, expected 8.*rm .*config.yaml",
        2,
        begun(edit(batch_size=4)),
    ),
    Case("config.yaml of another run", RUN, "is refused", 2, done(write("config.yaml", SOURCE.to_yaml()))),
    Case(
        "config.yaml without its task",
        RUN,
        "expected the settings of a run",
        2,
        done(write("config.yaml", "epochs: 1\n")),
    ),
    Case("config.yaml with a key said twice", RUN, "'task' stands twice", 2, done(twice)),
    Case("config.yaml with an unknown setting", RUN, "unknown key 'epocs'; did you mean", 2, done(edit(epocs=1))),
    Case("config.yaml that is no YAML", RUN, "config.yaml: line 2: ", 2, begun(write("config.yaml", "task: [\n"))),
    Case("config.yaml that is a list", RUN, "expected the settings of a run", 2, done(write("config.yaml", "[1, 2]"))),
    Case("config.yaml, empty (a power cut)", RUN, "finished: ", 0, done(write("config.yaml", ""))),
    Case("config.yaml, zeros (a power cut)", RUN, "finished: ", 0, done(write("config.yaml", bytes(900)))),
    Case("config.yaml, gone", RUN, "finished: ", 0, done(remove("config.yaml"))),
    Case("config.yaml that is a folder", RUN, "config.yaml: expected a file", 2, done(folder_at("config.yaml"))),
    Case("a file in the place of the run's folder", RUN, "expected a folder, found a file", 2, done(a_file_instead)),
    Case("an edited run in --status", STATUS, "refused.*epochs: found 9.0", 0, in_study(edit(epochs=9))),
    Case("an edited run in --dry-run", PLAN, "refused.*epochs: found 9.0", 0, in_study(edit(epochs=9))),
    Case("an edited run in a table", TABLE, "classify refused: .*epochs: found 9.0", 0, in_study(edit(epochs=9))),
    Case(
        "a run renamed to another's signature",
        PLAN,
        "masking.alpha: found 0.2, expected 0.5.*renamed or copied",
        0,
        in_study(rename_to(study.build("smoke")[1].stages["pretrain"]), "pretrain"),
    ),
    Case(
        "a name in runs/ that is no signature",
        STATUS,
        "0 of 14 runs done",
        0,
        lambda f: (f / "runs/x y").mkdir(parents=True),
    ),
    # the other files
    Case("an empty heartbeat.json", STATUS, "3 of 14 runs done", 0, in_study(write("heartbeat.json", ""))),
    Case("heartbeat.json that is a list", STATUS, "3 of 14 runs done", 0, in_study(write("heartbeat.json", "[1]"))),
    Case(
        "heartbeat.json with words for numbers",
        STATUS,
        "3 of 14 runs done",
        0,
        in_study(write("heartbeat.json", json.dumps(BEAT | {"step": "x", "total_steps": [], "epoch": {}}))),
    ),
    Case(
        "a heartbeat of process -1",
        PLAN,
        "Would run 11 runs",
        0,
        in_study(write("heartbeat.json", json.dumps(BEAT | {"pid": -1}))),
    ),
    Case(
        "heartbeat.json that is a folder",
        STATUS,
        "heartbeat.json: expected a file",
        0,
        in_study(folder_at("heartbeat.json")),
    ),
    Case("an empty heartbeat.json of a begun run", RUN, "finished: ", 0, begun(write("heartbeat.json", ""))),
    Case("a journal that is a folder", RUN, "journal.jsonl: expected a file", 2, done(folder_at("journal.jsonl"))),
    Case("a journal of zeros", STATUS, "2 of 14 runs done", 0, in_study(write("journal.jsonl", bytes(5000)))),
    Case(
        "a last record without a time",
        STATUS,
        "3 of 14 runs done",
        0,
        in_study(append("journal.jsonl", {"kind": "failed", "step": 3, "reason": "x"}, [1], 3, "failed", None)),
    ),
    Case(
        "a last record without its reason",
        TABLE,
        "13.3|40.0",
        0,
        in_study(append("journal.jsonl", {"time": 1.0, "kind": "failed"})),
    ),
    Case(
        "an evaluation that is NaN, of an older version",
        TABLE,
        "classify failed: diverged: accuracy is nan",
        0,
        in_study(
            append(
                "journal.jsonl",
                {"time": 1.0, "kind": "eval", "step": 40, "split": "val", "n": 500, "fingerprint": "f00d"}
                | {"metrics": {"accuracy": float("nan")}},
                {"time": 1.0, "kind": "finished", "step": 40, "seconds": 1.0},
            )
        ),
    ),
    Case(
        "a done run without its evaluation",
        TABLE,
        "expected an evaluation with accuracy on scenes val, found nothing in .*to make them again",
        2,
        in_study(write("journal.jsonl", '{"time": 1, "kind": "finished", "step": 40, "seconds": 1}\n')),
    ),
    Case("a seed said twice", f"{TABLE} --seeds 0 1 0", "--seeds: 0 stands more than once", 2, in_study(nothing)),
    Case("seeds and a seed", f"{TABLE} --seeds 0 --seed 3", "--seeds and --seed both say", 2, in_study(nothing)),
    Case("a table of runs that are not there", f"{TABLE} --runs rnus", "--runs: rnus is not there; give the folder", 2),
    Case(
        "a table of a file",
        f"{TABLE} --runs x",
        "--runs: x is a file; choose a folder",
        2,
        lambda folder: (folder / "x").write_text(""),
    ),
    Case("a data record of other shapes", RUN, "finished: ", 0, done(prepend(*SHAPELESS))),
    Case("the same in a table", TABLE, "40.0", 0, in_study(prepend(*SHAPELESS))),
    Case("the same, and an init", TABLE, "40.0", 0, in_study(prepend(*SHAPELESS), "pretrain")),
    Case("a data record with no more than it needs", TABLE, "40.0", 0, in_study(prepend(LEAST))),
    Case("the same of a run that is done", RUN, "finished: ", 0, done(prepend(LEAST))),
    Case(
        "the same of a run that goes on, on other data",
        RUN,
        "begun on other data: its train and eval samples were those of None",
        2,
        begun(prepend(LEAST)),
    ),
    # numbers too small to train with
    Case(
        "no step", f"{RUN} --set epochs=1e-9", "epochs: 1e-09 is less than one step.*set epochs=0.5", 2, begun(nothing)
    ),
    Case("no step of a study", f"{PLAN} --set pretrain.epochs=1e-9", "epochs: 1e-09 is less than one step", 2),
    *(
        Case(
            f"a {key} of 1e-320",
            f"{RUN} --set optimizer.{key}=1e-320",
            f"{key}: .*greater than or equal to 0.000000000001, found 1e-320",
            2,
            begun(nothing),
        )
        for key in ("base_lr", "clip_grad")
    ),
    Case("jobs.jsonl without job, study and host", STATUS, "2 of 14 runs done", 0, submitted()),
    Case(
        "a submission without study and host",
        STATUS,
        "unknown: submitted as local:7, .* remove .*jobs.jsonl, and the run goes on",
        0,
        submitted(job="local:7"),
    ),
    Case(
        "an end of a state that there is not",
        STATUS,
        "2 of 14 runs done",
        0,
        submitted(kind="ended", state="x", reason=""),
    ),
    Case("a lock that is a folder", RUN, ".writer: Is a directory", 2, begun(folder_at(".writer"))),
    Case("log/ that is a file", RUN, "log: expected a folder", 2, begun(write("log", ""))),
    Case("checkpoints/ that is a file", RUN, "checkpoints: expected a folder", 2, begun(write("checkpoints", ""))),
    Case("samples/ that is a file", RUN, "samples: expected a folder", 2, begun(write("samples", ""))),
    Case("weights.safetensors that is a folder", RUN, "expected a file", 2, begun(folder_at("weights.safetensors"))),
    *(
        Case(
            f"{name} that is a link to nothing",
            RUN,
            f"{name}: expected a (file|folder), found a link to /scratch/gone, which is not there. See whether its disk",
            2,
            begun(link_to("/scratch/gone", name)),
        )
        for name in ("checkpoints", "log", "samples", "journal.jsonl", "config.yaml", "heartbeat.json", "jobs.jsonl")
    ),
    Case(
        "checkpoints/ that is a link to itself",
        RUN,
        "found a link to checkpoints,",
        2,
        begun(link_to("checkpoints", "checkpoints")),
    ),
    Case("log/ that is a link to itself", RUN, "found a link to log,", 2, begun(link_to("log", "log"))),
    *(
        Case(
            f"a journal that is a link to nothing, in {where}",
            command,
            "journal.jsonl: expected a file, found a link to gone",
            0,
            in_study(link_to("gone", "journal.jsonl")),
        )
        for where, command in (("--status", STATUS), ("--dry-run", PLAN), ("a table", TABLE))
    ),
    Case("a lock that is a link to itself", RUN, ".writer: Too many levels", 2, begun(link_to(".writer", ".writer"))),
    Case("checkpoints of a run that is done", RUN, "finished: ", 0, done(checkpoints_remain)),
    # what a transfer starts from
    Case(
        "init: weights that are gone",
        RUN,
        "is gone; to make them again: mv .* && rm -r",
        2,
        source(remove("weights.safetensors")),
    ),
    Case(
        "init: empty weights",
        RUN,
        "is no safetensors file, or cut short; to make",
        2,
        source(write("weights.safetensors", "")),
    ),
    Case("init: weights cut short", RUN, "is cut short, or not what was written; to make", 2, source(half_the_weights)),
    Case(
        "init: weights of another run",
        RUN,
        "the weights of another run .pretrain 0123456789",
        2,
        source(weights_about({"run": "pretrain 0123456789 step 9"})),
    ),
    Case(
        "init: text as weights",
        RUN,
        "is no safetensors file",
        2,
        source(write("weights.safetensors", "weights " * 99)),
    ),
    Case(
        "init: a run in the weights that is no text",
        RUN,
        "is no safetensors file",
        2,
        source(weights_about({"run": 5})),
    ),
    Case("init: notes in the weights that are no text", RUN, "is no safetensors file", 2, source(weights_about([1]))),
    Case("init: weights without tensors", RUN, "init: run:[0-9a-f]{10}: the source of an encoder", 2, source(nothing)),
    Case(
        "init: a run whose config.yaml was edited",
        RUN,
        "init: .* is refused: .*epochs: found 9.0",
        2,
        source(edit(epochs=9)),
    ),
    Case(
        "a study whose pre-training's weights are gone",
        PLAN,
        "blocked: .*is gone; to make",
        0,
        in_study(weights_gone_and_needed, "pretrain"),
    ),
]
