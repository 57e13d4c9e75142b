"""The page of a study in MLflow: its dashboards are made once, follow what comes, and leave a user's own alone."""

import base64
import json
import zlib
from dataclasses import replace

import pytest
from PIL import Image
from tracking_store import CLASSIFY, PRETRAIN, Seen, empty_store, runs, study_run  # noqa: F401 (fixtures)

from multimae import tracking
from multimae.record.outline import Outline
from multimae.tracking import dashboards, store
from multimae.tracking.dashboards import NOTE, PREFIX, TAG
from sweeps.alpha_ablation import study

METRICS = ("classify/accuracy", "pretrain/loss")


@pytest.fixture
def page(runs):
    """What the experiment of a study of two rows shows, and the runs."""
    Outline("The title", ("alpha=0.2", "alpha=1"), METRICS).save(runs, "ablation", "smoke")
    for row, alpha in (("alpha=1", 1.0), ("alpha=0.2", 0.2)):
        pretrain = PRETRAIN.edit({"masking.alpha": alpha})
        study_run(runs, pretrain, row).whole()
        study_run(runs, CLASSIFY.edit({"init": f"run:{pretrain.signature}"}), row, "classify").whole()
    assert tracking.sync(runs).ok
    return lambda: Seen(runs).client.get_experiment_by_name("ablation/smoke").tags


def state(tags: dict[str, str], id: str) -> dict:
    packed = json.loads(tags[f"{TAG}{PREFIX}{id}"])["state"].removeprefix("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def drawn(tags: dict[str, str], id: str) -> list[tuple[str, str]]:
    return [
        (chart["type"], chart["metricKey"]) for chart in state(tags, id)["compareRunCharts"] if not chart["deleted"]
    ]


def test_values_of_rows_are_bars_and_curves_are_of_pretrainings(page):
    tags = page()
    assert drawn(tags, "results") == drawn(tags, "seeds") == [("BAR", metric) for metric in METRICS]
    assert state(tags, "results")["searchFilter"] == "tags.stage = 'row'"
    assert state(tags, "seeds")["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "row"}]
    kinds, keys = zip(*drawn(tags, "training"))
    assert set(kinds) == {"LINE"} and set(keys) >= {"train/loss", "train/lr", "train/grad_norm", "train/loss_rgb"}
    assert ("BAR", "epoch/images_per_second") in drawn(tags, "cost")
    assert state(tags, "pictures")["compareRunCharts"][0]["imageKeys"] == ["predictions"]


def test_no_chart_is_added_for_what_a_dashboard_does_not_show(page, runs):
    every = {key for run in Seen(runs).all() for key in run.data.metrics}
    assert "val/accuracy" in every
    for id in ("results", "seeds", "training", "cost", "pictures"):
        assert every <= {chart["metricKey"] for chart in state(page(), id)["compareRunCharts"]}


def test_rows_can_be_sorted_filtered_and_grouped(page, runs):
    found = Seen(runs).runs("ablation/smoke")
    told = {name: run.data.tags for name, run in found.items()}
    assert (told["alpha=0.2"]["place"], told["alpha=1"]["place"]) == ("0000", "0001")
    for name in ("alpha=0.2", "alpha=0.2 pretrain", "alpha=0.2 classify"):
        has = {key: told[name][key] for key in ("alpha", "inputs", "targets", "seed", "study", "scale")}
        assert has == {
            "alpha": "0.2",
            "inputs": "rgb-depth-semseg",
            "targets": "rgb-rgb_standardized-depth-semseg",
            "seed": "0",
            "study": "ablation",
            "scale": "smoke",
        }
    assert told["alpha=1 pretrain"]["signature"] == PRETRAIN.edit({"masking.alpha": 1.0}).signature


def test_they_are_written_once_and_again_where_something_is_new(page, runs, monkeypatch):
    before, written = page(), []
    tag_page = store.Store.tag_page
    monkeypatch.setattr(store.Store, "tag_page", lambda s, e, tags: (written.extend(tags), tag_page(s, e, tags)))
    assert tracking.sync(runs).ok and page() == before and not written
    run = study_run(runs, CLASSIFY.edit({"seed": 1}), "another", "classify")
    run.whole(metrics={"accuracy": 1.0, "something_new": 2.0})
    assert tracking.sync(runs).ok
    assert "val/something_new" in {chart["metricKey"] for chart in state(page(), "training")["compareRunCharts"]}
    after, now = (json.loads(tags[f"{TAG}{PREFIX}training"]) for tags in (before, page()))
    assert after["createdAt"] == now["createdAt"] <= now["updatedAt"]


def test_a_users_own_words_and_views_stay(page, runs):
    client = Seen(runs).client
    experiment = client.get_experiment_by_name("ablation/smoke").experiment_id
    client.set_experiment_tag(experiment, NOTE, "My own words")
    client.set_experiment_tag(experiment, f"{TAG}abc", "{}")
    study_run(runs, CLASSIFY.edit({"seed": 1}), "another", "classify").whole(metrics={"new": 1.0})
    assert tracking.sync(runs).ok
    assert page()[NOTE] == "My own words" and page()[f"{TAG}abc"] == "{}"


def test_the_description_begins_with_links_to_each(page):
    first = page()[NOTE].splitlines()[0]
    for each in dashboards.dashboards(Outline(), ()):
        assert f"[{each.title}](#/experiments/" in first and f"viewStateShareKey={each.key}" in first
    assert page()["mlflow.experimentKind"] == "custom_model_development"


def test_a_damaged_view_or_outline_is_made_anew(page, runs):
    good, client = page(), Seen(runs).client
    experiment = client.get_experiment_by_name("ablation/smoke").experiment_id
    client.set_experiment_tag(experiment, f"{TAG}{PREFIX}results", "no JSON")
    Outline.path(runs, "ablation", "smoke").write_text('{"rows": 3}')
    assert tracking.sync(runs).ok
    assert json.loads(page()[f"{TAG}{PREFIX}results"])["name"] == json.loads(good[f"{TAG}{PREFIX}results"])["name"]


def test_many_nodes_leave_the_dashboards_there():
    nodes = {f"system/node_{node}/metric_{number}_of_a_long_name" for node in range(128) for number in range(40)}
    metrics = {"classify/accuracy", *nodes}
    made = dashboards.tags(dashboards.dashboards(Outline(), metrics), metrics, 0, {})
    assert len(made) == 5 and max(map(len, made.values())) < 20_000


def test_seeds_from_scratch_are_rows_of_their_own(runs):
    for seed, value in ((0, 10.0), (1, 20.0)):
        config = CLASSIFY.edit({"init": "scratch", "seed": seed})
        study_run(runs, config, "from scratch", "classify").whole(metrics={"accuracy": value})
    assert tracking.sync(runs).ok
    rows = [run.data for run in Seen(runs).all() if run.data.tags["stage"] == "row"]
    assert {run.tags["seed"]: run.metrics["classify/accuracy"] for run in rows} == {"0": 10.0, "1": 20.0}


def test_pictures_are_in_the_grid_once(runs):
    run = study_run(runs)
    run.start()
    run.folder.samples.mkdir()
    Image.new("RGBA", (700, 100), "red").save(run.folder.samples / "predictions.png")
    for _ in range(2):
        run.journal.write("sample", step=10, file="samples/predictions.png")
        assert tracking.sync(runs).ok
    seen = Seen(runs)
    ((_, found),) = [(n, r) for n, r in seen.runs("ablation/smoke").items() if n.endswith("pretrain")]
    files = seen.artifacts(found, "images")
    assert [file.rsplit("%")[-1] for file in files] == ["compressed.webp", f"run-{PRETRAIN.signature}.png"]
    assert all(file.startswith("images/predictions%step%0%timestamp%0%") for file in files)
    assert found.data.tags["mlflow.loggedImages"] == "True"


def test_a_study_writes_down_its_rows_and_what_they_measure(tmp_path):
    from multimae.study.outline import write_outlines

    write_outlines(tmp_path, "smoke", study, study.build("smoke"))
    outline = Outline.of(tmp_path, "alpha_ablation", "smoke")
    assert outline.rows == tuple(row.name for row in study.build("smoke"))
    assert outline.metrics == ("classify/accuracy", "segment/mIoU")
    assert Outline.of(tmp_path, "alpha_ablation", "paper") == Outline()
    (tmp_path / "studies/other").mkdir()
    (tmp_path / "studies/other/smoke").write_text("a file in its place")
    replace(outline, title="other").save(tmp_path, "other", "smoke")  # nothing fails by it
