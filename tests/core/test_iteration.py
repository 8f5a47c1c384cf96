"""The last of several items, of which no other is kept."""

import weakref

from metalab.core.iteration import last


class Item:
    """What can be looked after."""


def test_those_before_the_last_are_let_go():
    alive: list[weakref.ref[Item]] = []
    most = 0

    def items():
        nonlocal most
        for _ in range(5):
            item = Item()
            alive.append(weakref.ref(item))
            most = max(most, sum(each() is not None for each in alive))
            yield item
            del item

    found = last(items())
    assert found is alive[-1]()
    assert most == 2
