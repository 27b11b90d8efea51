"""Work ahead: it starts at once, comes out in order, is bounded in number, and leaves nothing behind."""

from concurrent.futures import ThreadPoolExecutor

from deephotlink.transforms.work_ahead import InOrder


class Work:
    def __init__(self, name, ready):
        self.name, self.ready = name, ready


def give(work, wait):
    if not (work.ready or wait):
        return False
    yield work.name
    return True


def test_out_of_turn_work_waits_for_its_turn():
    order = InOrder(4, give)
    first = Work("a", False)
    assert list(order.begin(first)) == []
    assert list(order.begin(Work("b", True))) == []  # ready, but `a` comes first
    first.ready = True
    assert list(order.begin(Work("c", False))) == ["a", "b"]
    assert list(order.finish()) == ["c"]


def test_more_than_the_bound_is_waited_for():
    order = InOrder(2, give)
    names = [name for i in range(5) for name in order.begin(Work(i, False))]
    assert names == [0, 1, 2]
    assert list(order.finish()) == [3, 4]


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
    assert list(order.begin(Flips("a", False))) == []
    assert [*order.begin(Work("b", True)), *order.finish()] == ["a", "b"]


def test_a_slow_consumer_gets_everything_that_threads_finish():
    order = InOrder(3, give_future)
    with ThreadPoolExecutor(3) as threads:
        got = [n for i in range(300) for n in order.begin(threads.submit(lambda i=i: i))]
        got += list(order.finish())
    assert got == list(range(300))


def give_future(work, wait):
    if not (wait or work.done()):
        return False
    yield work.result()
    return True
