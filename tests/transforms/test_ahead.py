"""Work ahead: begun at once, given out in order, bounded in number, nothing left behind."""

from deephotlink.transforms.ahead import InOrder


class Work:
    def __init__(self, name, ready):
        self.name, self.ready, self.ended = name, ready, False


def give(work, wait):
    if work.ready or wait:
        work.ended = True
        yield work.name


def test_out_of_turn_work_waits_for_its_turn():
    order = InOrder(4, give, lambda w: w.ended)
    first = Work("a", False)
    assert list(order.begin(first)) == []
    assert list(order.begin(Work("b", True))) == []  # ready, but `a` comes first
    first.ready = True
    assert list(order.begin(Work("c", False))) == ["a", "b"]
    assert list(order.finish()) == ["c"]


def test_more_than_the_bound_is_waited_for():
    order = InOrder(2, give, lambda w: w.ended)
    names = [name for i in range(5) for name in order.begin(Work(i, False))]
    assert names == [0, 1, 2]
    assert list(order.finish()) == [3, 4]
