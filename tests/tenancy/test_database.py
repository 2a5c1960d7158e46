"""What is known of a database that is away."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from serving.tenancy import database


def test_callers_are_told_to_stay_away_as_long_again_as_the_database_has_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = database.Database(f"sqlite:///{tmp_path}/later/file")
    moment = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: moment)

    def waits() -> float:
        with pytest.raises(database.Down), opened.begin():
            raise AssertionError("there is no such folder")
        return opened.wait()

    assert waits() == 1
    moment += 20
    assert waits() == 20
    moment += 500
    assert waits() == 60
    (tmp_path / "later").mkdir()
    with opened.begin():
        pass
    assert opened.wait() == 1
    opened.close()
