"""The whole paper as one plan: the studies there are, and Tables 1, 2, 3, 7 and 11 as they would be."""

import subprocess
import sys

from multimae.config import recipe
from multimae.study import Evaluation, Row, Study, Table, runs_of, together
from sweeps import all as ablations
from sweeps.paper import ADE20K, CLASSIFY, HYPERSIM, NYUV2, NYUV2_DEPTH, mae, pretraining, rows_of, transfers

FIVE = (CLASSIFY, ADE20K, HYPERSIM, NYUV2, NYUV2_DEPTH)
OTHERS = {  # of which there are files of weights
    "Supervised": "timm:deit_base_patch16_224.fb_in1k",
    "DINO": "timm:vit_base_patch16_224.dino",
    "MoCo-v3": "official:mocov3",
}
INPUTS = {
    "2": (("rgb",), ("depth",), ("rgb", "depth")),
    "3": (("rgb",), ("pseudo_depth",), ("rgb", "pseudo_depth"), ("rgb", "pseudo_semseg"),
          ("rgb", "pseudo_depth", "pseudo_semseg")),
}  # fmt: skip
VARIANTS = {"imagenet-a": "accuracy", "imagenet-c": "mCE", "imagenet-r": "accuracy", "imagenet-sketch": "accuracy"}


def ours(scale: str) -> dict:
    return {"MAE": mae(scale, deep=True, epochs=1600), "MultiMAE": pretraining(scale, epochs=1600)}


def table_1(scale: str):
    for name, init in OTHERS.items():
        yield Row(name, transfers(scale, init, FIVE))
    yield from rows_of(ours(scale), scale, FIVE)


def with_inputs(number: str, measures: tuple[Evaluation, ...]) -> Study:
    """Each data set with each of the inputs; the key of RGB alone is that of Table 1."""
    columns = []
    for m in measures:
        for inputs in INPUTS[number]:
            key = m.key if inputs == ("rgb",) else "-".join([m.key, *inputs])
            columns.append(Evaluation(key, stage="-".join([m.stage, *inputs]), metric=m.metric))

    def rows(scale: str):
        for name, pretrain in ours(scale).items():
            stages = {"pretrain": pretrain}
            for m in measures:
                (config,) = transfers(scale, f"run:{pretrain.signature}", [m]).values()
                for inputs in INPUTS[number]:
                    stages["-".join([m.stage, *inputs])] = config.edit({"inputs": list(inputs)})
            yield Row(name, stages)

    return Study(f"table_{number}", "", rows, (Table(f"table {number}", "", tuple(columns)),))


def table_7(scale: str):
    pretrain = ours(scale)["MultiMAE"]
    stages = transfers(scale, f"run:{pretrain.signature}", (ADE20K, HYPERSIM, NYUV2))
    yield Row("ConvNeXt", {"pretrain": pretrain} | stages)
    # Its head is not here yet: another one makes as many runs.
    yield Row("Segmenter-Mask", {stage: config.edit({"head.kind": "linear"}) for stage, config in stages.items()})


def table_11(scale: str):
    for row in table_1(scale):
        robust = {
            name: recipe("evaluate", scale).edit({"init": f"run:{row.stages['classify'].signature}", "data.name": name})
            for name in VARIANTS
        }
        yield Row(row.name, {key: row.stages[key] for key in ("pretrain", "classify") if key in row.stages} | robust)


ROBUST = tuple(Evaluation(f"classify_{name}", stage=name, metric=metric) for name, metric in VARIANTS.items())
study = together(
    "paper",
    "All of the paper",
    [
        *(part for part in ablations.study.parts if part.published),
        Study("table_1", "", table_1, (Table("1", "", FIVE),)),
        with_inputs("2", (HYPERSIM, NYUV2)),
        with_inputs("3", (ADE20K, HYPERSIM, NYUV2)),
        Study("table_7", "", table_7, (Table("7", "", (ADE20K, HYPERSIM, NYUV2)),)),
        Study("table_11", "", table_11, (Table("11", "", ROBUST),)),
    ],
)


def test_its_cells_and_its_runs_are_those_that_were_counted():
    """184 cells of transfers, which are 155; 20 evaluations (Table 11) and 4 epoch times (Table 15) beside them."""
    rows = study.build("paper")
    cells = 0
    for part, its in study.of_parts(rows):
        measures = {m.key: m for table in part.tables for m in table.measures if isinstance(m, Evaluation)}
        cells += sum(m.stage in row.stages for row in its for m in measures.values())
    assert cells - len(VARIANTS) * len(set(ours("paper")) | OTHERS.keys()) == 184
    tasks = [run.config.task for run in runs_of(rows).values()]
    assert sum(task not in ("pretrain", "evaluate") for task in tasks) == 155
    assert tasks.count("pretrain") == 14 + 4 and tasks.count("evaluate") == 20  # four of them timed


def test_it_is_planned_and_tabulated_without_torch(tmp_path):
    """`python tests/study/test_whole_paper.py RUNS` does both, to be timed."""
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Table ") >= 11 and "all of the paper's, each once" in done.stdout


if __name__ == "__main__":
    from sweeps.command import main

    for words in (["--dry-run"], ["--table"]):
        assert main(study, [*words, "--scale", "paper", "--runs", sys.argv[1]]) == 0
    assert "torch" not in sys.modules
