"""Where runs of Ansible are killed, one after the other: at each task that acts, once, in a run that has it."""

from __future__ import annotations

from witness.interruption import Point, Task, points

_COMES = [Task(1, "look", False), Task(2, "render", True), Task(3, "start", True), Task(4, "render", True)]
_GOES = [Task(1, "look", False), Task(2, "stop", True), Task(3, "render", True), Task(4, "drain", True)]


def test_each_task_that_acts_is_chosen_in_a_run_that_has_it() -> None:
    """Runs alternate: what comes first in each, and is not done yet, is next; the second `render` is another task."""
    assert list(points([_COMES, _GOES], 1)) == [
        Point(2),  # render
        Point(2, 0.4),  # stop
        Point(3),  # start
        Point(4, 0.4),  # drain
        Point(4),  # render, again
    ]


def test_a_run_with_nothing_left_to_kill_is_let_through() -> None:
    """The state that the other one starts from needs it."""
    assert list(points([_COMES, _GOES[:1]], 1)) == [Point(2), None, Point(3, 0.4), None, Point(4)]


def test_a_part_of_the_tasks_has_equal_distances() -> None:
    """At least two, of the five."""
    assert list(points([_COMES, _GOES], 0.01)) == [Point(2), None, Point(4, 0.4)]
