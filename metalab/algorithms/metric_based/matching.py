"""Matching networks: Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import cosines, log_mass_of_class, squared_distances
from metalab.algorithms.components.lstm import LSTMCell, states
from metalab.algorithms.components.temperature import temperature, temperature_parts
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class Matching:
    """Classify by attention over all support images (eq. 1): the share of softmax(similarity / temperature) on a class.

    The logits are the logarithms of the shares, so cross-entropy is their negative log-likelihood. similarity: cosine;
    relu_cosine, negative cosines cut off; half_cosine, queries keep their length; euclidean, minus the squared
    distance. learned_temperature: exp of a meta-learned number that starts at log(temperature). fce: full context
    embeddings (appendix A): a bidirectional LSTM over the support in the sampler's shuffled order, and an LSTM with
    attention over it for each query, fce_steps steps; None: as many as there are support images.
    """

    way: int
    similarity: Literal["cosine", "relu_cosine", "half_cosine", "euclidean"]
    temperature: float
    learned_temperature: bool
    fce: bool
    fce_steps: int | None

    def __post_init__(self) -> None:
        check_positive("algo.temperature", self.temperature)
        if self.fce_steps is not None and self.fce_steps < 1:
            raise UserError(f"algo.fce_steps={self.fce_steps}: expected 1 or more, or null for one a support image")

    @property
    def traits(self) -> AlgorithmTraits:
        fce = self.fce
        return AlgorithmTraits(without_training=None if fce else {}, frozen_body=True, exports_episode=not fce)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        found = temperature_parts(self.temperature, self.learned_temperature)
        if self.fce:
            found |= {name: LSTMCell(features, features) for name in ("forwards", "backwards")}
            found["reading"] = LSTMCell(features, features, features)
        return found

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = self._in_context(learner, learner.features(support.x).flatten(1))
        scale = temperature(learner, self.temperature, self.learned_temperature)

        def asked(x: Tensor) -> Tensor:
            return self._reading(learner, learner.features(x).flatten(1), known)

        yield lambda x: log_mass_of_class(self._alike(asked(x), known) / scale, support.y, self.way)

    def _alike(self, asked: Tensor, known: Tensor) -> Tensor:
        if self.similarity == "euclidean":
            return -squared_distances(asked, known)
        if self.similarity == "half_cosine":
            return asked @ F.normalize(known, dim=-1).T
        cosine = cosines(asked, known)
        return cosine.relu() if self.similarity == "relu_cosine" else cosine

    def _in_context(self, learner: Learner, known: Tensor) -> Tensor:
        """g(x_i, S) = g'(x_i) + the states of both directions at i (appendix A.2)."""
        if not self.fce:
            return known
        forwards, backwards = (partial(learner.part, name) for name in ("forwards", "backwards"))
        return known + states(forwards, known) + states(backwards, known.flip(0)).flip(0)

    def _reading(self, learner: Learner, asked: Tensor, known: Tensor) -> Tensor:
        """f(x, S): the states of an LSTM that reads the support by attention at each step (appendix A.1)."""
        h, c = asked, torch.zeros_like(asked)
        for _ in range((self.fce_steps or known.shape[0]) if self.fce else 0):
            read = (h @ known.T).softmax(1) @ known
            state, c = learner.part("reading", asked, torch.cat([h, read], 1), c)
            h = state + asked
        return h
