"""Work ahead: it starts at once, comes out in order, is bounded in number, and leaves nothing behind."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import IntervalWindow

from deephotlink.transforms.work_ahead import InOrder, Place


class Work:
    def __init__(self, name, ready):
        self.name, self.ready = name, ready


def give(work, wait):
    if not (work.ready or wait):
        return False
    yield work.name
    return True


def values(given):
    return [one.value for one in given]


def test_out_of_turn_work_waits_for_its_turn():
    order = InOrder(4, give)
    first = Work("a", False)
    assert values(order.begin(first)) == []
    assert values(order.begin(Work("b", True))) == []  # ready, but `a` comes first
    first.ready = True
    assert values(order.begin(Work("c", False))) == ["a", "b"]
    assert values(order.finish()) == ["c"]


def test_more_than_the_bound_is_waited_for():
    order = InOrder(2, give)
    names = [name for i in range(5) for name in values(order.begin(Work(i, False)))]
    assert names == [0, 1, 2]
    assert values(order.finish()) == [3, 4]


def test_work_that_ends_between_two_looks_is_not_lost():
    """A future may be done at any instant: what was not given out must stay, whatever it says of itself later."""

    class Flips(Work):
        looks = 0

        @property
        def ready(self):
            self.looks += 1
            return self.looks > 1

        @ready.setter
        def ready(self, value):
            pass

    order = InOrder(4, give)
    assert values(order.begin(Flips("a", False))) == []
    assert values([*order.begin(Work("b", True)), *order.finish()]) == ["a", "b"]


def test_a_slow_consumer_gets_everything_that_threads_finish():
    order = InOrder(3, give_future)
    with ThreadPoolExecutor(3) as threads:
        got = [n for i in range(300) for n in values(order.begin(threads.submit(lambda i=i: i)))]
        got += values(order.finish())
    assert got == list(range(300))


def give_future(work, wait):
    if not (wait or work.done()):
        return False
    yield work.result()
    return True


def test_results_are_where_their_element_was_not_where_beam_is_now():
    def tagged(work, wait):
        if not (work.ready or wait):
            return False
        yield work.name
        yield TaggedOutput("clips", work.name)
        return True

    order = InOrder(4, tagged)
    places = [Place(IntervalWindow(at, at + 60), at + 1) for at in (0, 60)]
    assert list(order.begin(Work("a", False), places[0])) == []
    got = [*order.begin(Work("b", True), places[1]), *order.finish()]
    told = [one.value if isinstance(one, TaggedOutput) else one for one in got]
    assert [(one.value, one.windows, one.timestamp) for one in told] == [
        (name, (place.window,), place.timestamp) for name, place in (("a", places[0]), ("b", places[1])) for _ in "12"
    ]
    assert [getattr(one, "tag", None) for one in got] == [None, "clips"] * 2


def test_no_result_outlives_its_consumer():
    """A clip is 80 MB: while the next one is decoded, nothing may hold the one before."""

    class Frames:
        pass

    def clips(work, wait):
        for _ in range(3):
            yield Frames()
            gc.collect()
            assert seen[-1]() is None
        return True

    seen = []
    order = InOrder(0, clips)
    for given in order.begin(Work("a", True)):
        seen.append(weakref.ref(given.value))
        del given
    assert len(seen) == 3
