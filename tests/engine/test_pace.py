"""When it is worth coming back."""

from serving.engine.pace import Pace


def test_nobody_has_left_yet() -> None:
    assert Pace().wait(10, now=0.0) == 1.0


def test_the_wait_is_that_of_those_ahead_at_the_pace_of_those_before() -> None:
    pace = Pace()
    for second in (0, 2, 4):
        pace.left(float(second))
    assert pace.wait(5, now=6.0) == 10.0
    assert pace.wait(5, now=12.0) == 20.0


def test_the_wait_has_its_limits() -> None:
    pace = Pace()
    pace.left(0.0)
    assert pace.wait(1000, now=5.0) == 60.0
    assert pace.wait(-3, now=5.0) == 1.0


def test_only_the_last_requests_count() -> None:
    pace = Pace()
    for second in range(1000):
        pace.left(float(second))
    assert pace.wait(10, now=1000.0) == 10.0
