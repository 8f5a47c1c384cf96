"""Memory-augmented neural network: Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016, sec. 3 and 4."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metalab.algorithms.components.distances import members
from metalab.algorithms.components.external_memory import State, check_memory, memory_step, start_state
from metalab.algorithms.components.lstm import LSTMCell
from metalab.config.validate import check_positive
from metalab.core.interfaces import Batch, Learner, Loss, Model


@dataclass(frozen=True)
class MANN:
    """Read a sequence of images with the label of the image before, and name each by what the memory holds.

    The controller is an LSTM of `controller` units; the memory has `slots` rows of `width` numbers, written and read
    by `reads` heads (see components/external_memory.py). sharpness: factor of the cosines before the softmax of the
    reading; 1 is the paper's. learned_memory: the rows the memory starts with are meta-learned, else all are 1e-6.
    """

    way: int
    controller: int
    slots: int
    width: int
    reads: int
    decay: float
    sharpness: float
    learned_memory: bool

    def __post_init__(self) -> None:
        check_positive("algo.controller", self.controller)
        check_positive("algo.sharpness", self.sharpness)
        check_memory(self.slots, self.width, self.reads, self.decay)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        read = self.reads * self.width
        rows = {"rows": 0.1 * torch.randn(self.slots, self.width)} if self.learned_memory else {}
        return {
            "controller": LSTMCell(features + self.way, self.controller, read),
            "heads": nn.Linear(self.controller, self.reads * (2 * self.width + 1)),
            "head": nn.Linear(self.controller + read, self.way),
            "memory": nn.ParameterDict(rows),
        }

    def answers(self, learner: Learner, x: Tensor, y: Tensor) -> Tensor:
        """Return the logits [N,K] of each image of a sequence; the label of image t is given with image t + 1."""
        return torch.cat([self._logits(learner, state) for state in self._states(learner, x, y)])

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        *_, last = self._states(learner, support.x, support.y)

        def model(x: Tensor) -> Tensor:  # each query stands behind the support, in a copy of the state
            label = members(support.y[-1:], self.way).expand(x.shape[0], -1)
            given = torch.cat([learner.features(x).flatten(1), label], 1)
            copies = State(*(t.expand(x.shape[0], *t.shape[1:]) for t in last))
            return self._logits(learner, self._step(learner, given, copies))

        yield model

    def _states(self, learner: Learner, x: Tensor, y: Tensor) -> Iterator[State]:
        """Yield the state after each image; with image t comes the label of image t - 1, with the first none."""
        features = learner.features(x).flatten(1)
        labels = members(y, self.way).to(features.dtype)
        given = torch.cat([features, torch.cat([torch.zeros_like(labels[:1]), labels[:-1]])], 1)
        fresh = features.new_full((self.slots, self.width), 1e-6)
        rows = learner.parameters()["memory.rows"] if self.learned_memory else fresh
        state = start_state(rows, self.controller, self.reads)
        for row in given[:, None].unbind():
            state = self._step(learner, row, state)
            yield state

    def _step(self, learner: Learner, given: Tensor, state: State) -> State:
        h, c = learner.part("controller", given, torch.cat([state.h, state.read], 1), state.c)
        heads = learner.part("heads", h).reshape(h.shape[0], self.reads, -1)
        keys, contents, gate = heads.split_with_sizes([self.width, self.width, 1], -1)
        state = state._replace(h=h, c=c)
        return memory_step(state, keys.tanh(), contents.tanh(), gate.sigmoid(), self.decay, self.sharpness)

    def _logits(self, learner: Learner, state: State) -> Tensor:
        return learner.part("head", torch.cat([state.h, state.read], 1))
