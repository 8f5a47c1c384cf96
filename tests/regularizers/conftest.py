"""One task of MAML."""

import pytest

from metalab.engines.learn2learn import TaskLearner, task
from tests.attacks.nets import CASES, episodes, net_of


@pytest.fixture
def one():
    algorithm, _, steps = CASES["maml"]
    episode = task(episodes(), 0)
    learner = TaskLearner(net_of(algorithm), True)
    return algorithm, steps, episode, learner
