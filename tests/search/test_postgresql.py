"""The trials in a PostgreSQL server, which may be down for a while."""

import pytest
from postgres import PASSWORD, needs_postgresql, postgres  # noqa: F401  (a fixture)
from synthetic_search import Scripted, carry_out, search, trials_of

from multimae.config import ConfigError
from multimae.search import Coordinator, StorageLost, Trials, storage_at

pytestmark = [pytest.mark.slow, needs_postgresql]


def coordinator(server, tmp_path, searched, launcher, **options) -> Coordinator:
    tmp_path.mkdir(exist_ok=True)
    trials = Trials(searched, storage_at(server.url))
    return Coordinator([trials], tmp_path, "smoke", launcher, number=8, **options)


def test_the_trials_are_those_of_sqlite_though_the_server_is_killed(postgres, tmp_path):
    usual = carry_out(tmp_path / "sqlite", search())
    launcher = Scripted()
    made = coordinator(postgres, tmp_path / "postgres", search(), launcher, parallel=1)
    looks = lost = 0
    goes_on = True
    while goes_on:
        looks += 1
        assert looks < 200
        if looks in (5, 12, 20):
            postgres.stop("immediate")
        try:
            goes_on = made.look()
        except StorageLost as error:
            assert PASSWORD not in str(error)
            lost += 1
        if not postgres.runs:
            postgres.start()
        launcher.wait()
    assert lost >= 2 and trials_of(made) == trials_of(usual)
    assert len(launcher.starts) == len(set(launcher.starts))


def test_several_searches_share_a_server(postgres, tmp_path):
    for seed in (1, 2):
        launcher, searched = Scripted(), search(edits={"seed": seed})
        made = coordinator(postgres, tmp_path, searched, launcher, parallel=4)
        while made.look():
            launcher.wait()
        assert len(made.searches[0].all()) == 8
    with pytest.raises(ConfigError, match="no search smoke-other is in this storage; there are"):
        Trials(search(name="smoke-other"), storage_at(postgres.url), make=False)


def test_a_wrong_password_is_told_without_the_right_one(postgres):
    with pytest.raises(ConfigError, match="cannot be opened") as told:
        storage_at(postgres.url.replace(PASSWORD, "another-word"))
    assert "another-word" not in str(told.value)
