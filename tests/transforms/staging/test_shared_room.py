"""The space of the spool, shared by several processes of one command: each is a SpoolRoom here."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from deephotlink.transforms.staging.spool_space import SpoolRoom


@pytest.fixture
def rooms(tmp_path: Path) -> list[SpoolRoom]:
    """Three processes' shares of 100 bytes."""
    found = []
    for number in range(3):
        folder = tmp_path / f"worker-{number}"
        folder.mkdir()
        room = SpoolRoom()
        room.share(folder)
        room.bound(100, folder)
        found.append(room)
    return found


def waiting(room: SpoolRoom, size_bytes: int, taken: list[int]) -> threading.Thread:
    """A thread that takes room and notes it in `taken`."""

    def take() -> None:
        room.take(room.ticket(), size_bytes)
        taken.append(size_bytes)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


def test_all_together_stay_within_the_limit(rooms):
    first, second, third = rooms
    first.take(first.ticket(), 60)
    second.take(second.ticket(), 30)
    taken: list[int] = []
    thread = waiting(third, 20, taken)
    time.sleep(0.6)
    assert taken == []
    second.give_back(30)
    thread.join(10)
    assert taken == [20]


def test_the_first_to_wait_is_served_first_so_that_a_large_file_gets_its_turn(rooms):
    first, second, third = rooms
    first.take(first.ticket(), 60)
    taken: list[int] = []
    large = waiting(second, 150, taken)  # more than all the room: it is let in alone
    time.sleep(0.3)
    small = waiting(third, 10, taken)
    time.sleep(0.6)
    assert taken == []  # the small one would fit, but it came later
    first.give_back(60)
    large.join(10)
    assert taken == [150]
    time.sleep(0.6)
    assert taken == [150]
    second.give_back(150)
    small.join(10)
    assert taken == [150, 10]


def test_what_a_killed_process_held_is_free(rooms, tmp_path):
    first, second, _ = rooms
    first.take(first.ticket(), 90)
    taken: list[int] = []
    thread = waiting(second, 90, taken)
    time.sleep(0.3)
    assert taken == []
    shutil.rmtree(tmp_path / "worker-0")  # as the command does it
    thread.join(10)
    assert taken == [90]


def test_a_ticket_that_is_passed_on_gives_up_its_turn(rooms):
    first, second, third = rooms
    first.take(first.ticket(), 60)
    ticket, ended = second.ticket(), []

    def take() -> None:
        try:
            second.take(ticket, 70)
        except Exception as error:
            ended.append(str(error))

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    time.sleep(0.3)
    second.pass_on(ticket)
    thread.join(10)
    assert ended == ["the file is no longer wanted"]
    third.take(third.ticket(), 30)
