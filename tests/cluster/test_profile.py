"""What belongs to a site: read, checked, and turned into what a job asks for and how it computes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from multimae.config import ConfigError, Runtime, recipe
from slurm.profile import PROFILES, Profile, load_profile, profiles


@pytest.fixture
def make(tmp_path):
    """A profile from YAML text."""

    def write(text: str) -> Profile:
        path = tmp_path / "here.yaml"
        path.write_text(text)
        return load_profile(path)

    return write


# ---- finding one


@pytest.mark.parametrize("name", profiles())
def test_profiles_that_come_with_the_project_are_valid(name):
    profile = load_profile(name)
    assert profile.name == name
    for stage in ("pretrain", "classify", "segment"):
        assert profile.check(recipe(stage, profile.scale), stage, profile.resources(stage)) == []


def check(profile: Profile) -> list[str]:
    return profile.check(recipe("pretrain", "paper"), "pretrain", profile.resources("pretrain"))


def test_the_default_is_in_the_environment_else_site(monkeypatch):
    monkeypatch.delenv("MULTIMAE_PROFILE", raising=False)
    assert load_profile().name == "site"
    monkeypatch.setenv("MULTIMAE_PROFILE", "devcluster")
    assert load_profile().name == "devcluster"
    assert load_profile("site").name == "site"


def test_an_unknown_profile_lists_those_that_exist():
    with pytest.raises(ConfigError, match="did you mean 'devcluster'.*There are: devcluster, site"):
        load_profile("devclutser")


def test_the_example_names_every_key_or_its_default(monkeypatch):
    """A site's keys can all be learnt from the example, except those of the dev cluster."""
    text = (PROFILES / "site.yaml").read_text()
    keys = {field.alias or name for name, field in Profile.model_fields.items()}
    said = {line.lstrip("# ").split(":")[0] for line in text.splitlines()}
    assert keys - said == {"name", "tasks_per_node", "cache", "slurm_conf"}


# ---- mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin: gpu", "unknown key 'partitoin'; did you mean 'partition'. Valid here: partition,"),
        ("stages: {pretrain: {node: 2}}", "pretrain: unknown key 'node'; did you mean 'nodes'. Valid .*runtime"),
        ("runtime: {worker: 2}", "runtime: unknown key 'worker'; did you mean 'workers'. Valid .*device"),
        ("stages: {a: {runtime: {zero: 1}}}", "a: runtime: unknown key 'zero'.*zero_stage"),
        ("runtime: {workers: -1}", "workers: .*greater than or equal to 0, found -1"),
        ("runtime: {alone: true}", "runtime: unknown key 'alone'"),
        ("runtime: {runs: /x}", "'runs' is a key of the profile itself"),
        ("runs: $NO_SUCH_VARIABLE/runs", "runs: the environment variable NO_SUCH_VARIABLE is not set"),
        ("data_roots: {imagenet: '${NO_SUCH_VARIABLE}'}", "data_roots.imagenet: .*NO_SUCH_VARIABLE is not set"),
        ("time_limit: 24h", "time_limit: expected minutes, .*24:00:00.*found '24h'"),
        ("time_limit: 0:0:0", "time_limit: expected"),
        ("sbatch: {time: 3}", "'time' is said by the key time_limit"),
        ("sbatch: {job_name: x}", "'job_name' is set by the launcher"),
        ("sbatch: {exclusive: false}", "'exclusive' is false; leave it out"),
        ("scale: huge", "scale: .*'smoke', 'laptop', 'mini', 'lab' or 'paper'"),
        ("stages: [pretrain]", "stages: .*dictionary"),
        ("stages: {pretrain: 2}", "pretrain: expected a mapping"),
        ("- partition", "expected a mapping of settings, found list"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_mistakes_are_named_with_the_file(make, text, message):
    with pytest.raises(ConfigError, match=f"(?s)here.yaml.*{message}"):
        make(text)


# ---- time limits


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("30", 30),
        ("30:00", 30),
        ("0:30", 1),
        ("24:00:00", 1440),
        ("01:30:00", 90),
        ("90:00", 90),
        ("1-00:00:00", 1440),
        ("1-12", 2160),
        ("2-0:30", 2910),
        ("0:10:01", 11),
    ],
)
def test_time_limits_in_slurms_forms(make, text, minutes):
    """Unquoted, as a person writes them: YAML 1.1 takes 24:00:00 for the number 86400."""
    assert make(f"time_limit: {text}").minutes == minutes


def test_plain_yaml_reads_a_time_as_a_number():
    """Why profiles have a loader of their own."""
    assert yaml.safe_load("24:00:00") == 86400


# ---- what a job gets


def test_a_kind_changes_what_it_names_and_nothing_else(make):
    profile = make("""
        partition: gpu
        gpus_per_node: 8
        cpus_per_task: 12
        sbatch: {exclusive: true, nice: 1}
        runtime: {workers: 11, zero_stage: 1}
        kinds: {pretrain: {nodes: 4, time_limit: 2-00, sbatch: {nice: 5}, runtime: {workers: 4}}}
    """)
    base, pretrain = profile.resources("classify"), profile.resources("pretrain")
    assert (base.nodes, base.processes, base.minutes) == (1, 8, 1440)
    assert (pretrain.nodes, pretrain.processes, pretrain.minutes) == (4, 32, 2880)
    assert (pretrain.partition, pretrain.cpus_per_task) == ("gpu", 12)
    assert base.sbatch == {"exclusive": True, "nice": 1}
    assert pretrain.sbatch == {"exclusive": True, "nice": 5}
    assert [profile.runtime(s).workers for s in ("classify", "pretrain")] == [11, 4]
    assert profile.runtime("pretrain").zero_stage == 1


def test_resources_are_those_of_the_kind_whatever_the_stage_is_called_unless_it_has_its_own(make):
    profile = make("""
        gpus_per_node: 8
        kinds: {segment: {gpus_per_node: 4, runtime: {workers: 6}}}
        stages: {segment_large: {nodes: 2, runtime: {workers: 5}}}
    """)
    found = [profile.resources("segment", stage) for stage in ("segment", "segment_nyuv2_rgb", "segment_large")]
    assert [(r.nodes, r.gpus_per_node) for r in found] == [(1, 4), (1, 4), (2, 4)]
    assert [profile.runtime("segment", s).workers for s in ("", "segment_nyuv2_rgb", "segment_large")] == [6, 6, 5]
    assert profile.resources("classify", "segment").gpus_per_node == 8
    with pytest.raises(ConfigError, match="kinds: 'segmnt' is no kind of run; did you mean 'segment'"):
        make("kinds: {segmnt: {nodes: 2}}")


def test_processes_are_the_gpus_unless_said_otherwise(make):
    assert make("nodes: 3").processes == 3
    assert make("{nodes: 3, gpus_per_node: 4}").processes == 12
    assert make("{nodes: 3, gpus_per_node: 4, tasks_per_node: 2}").processes == 6


def test_paths_are_expanded_and_absolute(make, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", "/home/me")
    profile = make("""
        runs: $SCRATCH/runs
        cache: ${SCRATCH}/cache
        data_roots: {imagenet: ~/imagenet, ade20k: data/../ade}
        weights: {mae: ~/mae.pth}
        tracking_uri: http://host
    """)
    runtime = profile.runtime("pretrain", data_roots={"imagenet": Path("mine")})
    assert runtime.runs == Path("/scratch/me/runs")
    assert runtime.cache == Path("/scratch/me/cache")
    assert runtime.data_roots == {"imagenet": tmp_path / "mine", "ade20k": tmp_path / "ade"}
    assert runtime.weights == {"mae": Path("/home/me/mae.pth")}
    assert runtime.tracking_uri == "http://host"
    assert profile.runtime("pretrain", runs=Path("elsewhere")).runs == tmp_path / "elsewhere"


def test_without_runs_the_folder_is_the_commands_default(make, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert make("nodes: 1").runtime("pretrain").runs == tmp_path / Runtime().runs


def test_secrets_are_not_shown(make):
    profile = make("{tracking_uri: 'https://me:hunter2@host', environment: {TOKEN: hunter3}}")
    assert profile.tracking_uri.endswith("hunter2@host")
    assert profile.environment == {"TOKEN": "hunter3"}
    assert "hunter" not in f"{profile!r} {profile}"


def test_the_dev_cluster_is_asked_unless_the_environment_names_another(make, monkeypatch, tmp_path):
    conf = tmp_path / "slurm.conf"
    profile = make(f"slurm_conf: {conf}")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    with pytest.raises(ConfigError, match="slurm.conf is not there: .* slurm/devcluster/start"):
        profile.use_cluster()
    conf.touch()
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    profile.use_cluster()
    assert os.environ["SLURM_CONF"] == "/etc/other.conf"
    monkeypatch.delenv("SLURM_CONF")
    profile.use_cluster()
    assert os.environ["SLURM_CONF"] == str(conf)


# ---- do the resources suit the run?


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{nodes: 3, gpus_per_node: 8}", "stage pretrain: batch_size: 2048 is not a multiple of 24 processes"),
        ("{gpus_per_node: 8, runtime: {micro_batch_size: 3}}", "8 processes x micro_batch_size 3"),
        ("{gpus_per_node: 4, tasks_per_node: 8}", "8 processes cannot share 4 GPUs; leave tasks_per_node out"),
        ("{runtime: {device: cuda}}", "device is cuda, but gpus_per_node is 0"),
        ("{time_limit: 2, signal_seconds: 120}", "signal_seconds 120 is not less than the time limit of 2 min"),
    ],
)
def test_what_cannot_work_is_refused(make, text, message):
    with pytest.raises(ConfigError, match=f"profile here, {message}|profile here, stage pretrain: .*{message}"):
        check(make(text))


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("{gpus_per_node: 8, cpus_per_task: 7, runtime: {workers: 7}}", "cpus_per_task: 8 gives each a CPU"),
        ("{gpus_per_node: 8, tasks_per_node: 2}", "2 processes leave 6 of 8 GPUs idle"),
    ],
)
def test_what_wastes_is_told(make, text, note):
    (told,) = check(make(text))
    assert note in told


def test_reading_a_profile_imports_nothing_heavy():
    code = "import sys, slurm.profile as p; p.load_profile('site'); print({'torch', 'submitit'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
