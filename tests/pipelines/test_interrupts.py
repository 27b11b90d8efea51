"""A signal ends the work wherever the main thread is."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import weakref

import pytest

from deephotlink.pipelines.interrupts import SIGNALS, heed_signals, interruptible
from deephotlink.transforms.storage.requests import interruptible_sleep


def wait() -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        time.sleep(0.01)


def strike(number: int) -> None:
    os.kill(os.getpid(), number)
    for _ in range(10_000):  # the handler runs between two byte codes of the main thread: here
        pass


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_body(number):
    with pytest.raises(KeyboardInterrupt), interruptible():
        strike(number)
        wait()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_inside_a_weak_reference_s_callback_is_not_lost(number):
    class Thing: ...

    reached = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        thing = Thing()
        watch = weakref.ref(thing, lambda _: strike(number))
        del thing
        reached.append(watch)  # the callback swallowed the first KeyboardInterrupt
        wait()
    assert reached


def test_a_signal_that_is_sent_again_does_not_come_after_the_end():
    class Thing: ...

    with contextlib.suppress(KeyboardInterrupt), interruptible():
        thing = Thing()
        watch = weakref.ref(thing, lambda _: strike(signal.SIGINT))
        del thing
        assert watch
        raise KeyboardInterrupt
    interruptible_sleep(0.1)  # it would end this


def test_a_signal_that_a_runner_made_a_fault_of_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            strike(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("a step failed") from None


def test_other_lost_faults_and_other_threads_are_left_alone(monkeypatch):
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda said: lost.append(said.exc_type))

    class Thing:
        def __del__(self):
            raise ValueError

    before = {number: signal.getsignal(number) for number in SIGNALS}
    with interruptible():
        Thing()
        entered = []

        def enter() -> None:
            with interruptible():
                entered.append(True)

        elsewhere = threading.Thread(target=enter)
        elsewhere.start()
        elsewhere.join()
    assert lost == [ValueError] and entered == [True]
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_a_signal_that_a_library_swallows_is_heeded_between_two_waves():
    with pytest.raises(KeyboardInterrupt), interruptible():
        heed_signals()
        with contextlib.suppress(BaseException):  # what some library does to whatever it calls
            signal.raise_signal(signal.SIGTERM)
        heed_signals()
        pytest.fail("the work went on")
    heed_signals()  # and it is forgotten afterwards


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_naps_in_other_threads(number):
    """Whoever ends with a pool of threads waits for them."""
    begun, ended = threading.Event(), []

    def sleep() -> None:
        begun.set()
        try:
            interruptible_sleep(60)
        except KeyboardInterrupt:
            ended.append(True)

    threads = [threading.Thread(target=sleep) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt), interruptible():
        for thread in threads:
            thread.start()
        begun.wait()
        strike(number)
        wait()
    for thread in threads:
        thread.join(5)
    assert ended == [True, True]
    interruptible_sleep(0.01)  # nobody else is concerned, neither this thread nor later ones
    later = threading.Thread(target=lambda: ended.append(interruptible_sleep(0.01)))
    later.start()
    later.join()
    assert ended == [True, True, None]
