"""What unlabelled images of a target domain add to a training objective, by the features of both domains.

Source and target are the queries (training on mini-batches: the mini-batch) and `Batch.unlabelled` of the query.

In episodes these are features at the start weights theta: of a gradient-based method the body's before any inner step,
which every task starts from.

Batch norm: in passes of their own (joint: false, the default) each domain is normalized by its own statistics, which is
domain-specific batch normalization (Chang et al. 2019) with the affine parameters shared; there is no switch for
parameters of each domain, as these would be of a net that evaluations do not have. The running statistics of a run are
then the source's, and target images are to be evaluated with statistics of their own. In one joint pass both domains
are normalized by the statistics of their mixture, a plain classifier learns from its images so normalized, and the
running statistics are the mixture's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from metalab.algorithms.components.heads import full_precision
from metalab.algorithms.components.wrapped_learner import WrappedLearner
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, Learner, Objective, TaskResult
from metalab.regularizers.base import TARGETS, Hooks, ObjectiveContext, ObjectiveFactory

# learner, features of the source [N,D] and of the target [U,D], progress of training [] in 0..1 -> scalar []
Term = Callable[[Learner, Tensor, Tensor, Tensor], Tensor]


def target_hooks(name: str, term: Term, weight: float, joint: bool, predicts: bool = False) -> Hooks:
    """Return what adds a term of source's and target's features to the objective.

    Args:
        name: of the regularizer in the group reg.
        term: what is added.
        weight: its factor; at 0 nothing is computed.
        joint: whether both domains go through the body in one pass.
        predicts: it reads the head's predictions on target images, which only a plain classifier has.

    Raises:
        UserError: for a weight below 0.
    """
    if weight < 0:
        raise UserError(f"reg.{name}.weight={weight:g}: expected 0 or more")

    def wrap_objective(make: ObjectiveFactory, setting: ObjectiveContext) -> ObjectiveFactory:
        return (lambda outer: TargetTerm(make(outer), term, weight, joint)) if weight else make

    def attach(net: nn.Module) -> None:
        learns = any(p.requires_grad for p in net.get_submodule("body").parameters())
        if not learns and not predicts:
            raise UserError(
                f"reg.{name} changes the features that the body learns, and nothing of this backbone learns: type "
                f"another backbone or backbone.trainable, or leave {name} out of reg"
            )

    together = joint and weight > 0
    return Hooks(
        wrap_objective=wrap_objective, target=name, joint=together, classifier=predicts, attach=attach, rank=TARGETS
    )


@dataclass(frozen=True)
class TargetTerm:
    """An objective with weight x a term of the features of source and target on its loss.

    The objective gets a learner that knows these features: a plain classifier's queries go through the body once.
    """

    objective: Objective
    term: Term
    weight: float
    joint: bool

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        known = known_features(learner, episode.query, self.joint)
        result = self.objective(cast(Learner, known), episode, progress)
        source, target = known.source.flatten(1), known.target.flatten(1)
        with full_precision(source.device.type):  # distances and covariances of bfloat16 products are noise
            value = self.term(learner, source, target, progress)
        return result._replace(loss=result.loss + self.weight * value)


def known_features(learner: Learner, query: Batch, joint: bool) -> "KnownFeatures":
    """Return a learner that knows the features of a query's images and of the target's beside them."""
    if isinstance(learner, KnownFeatures) and learner.query is query and learner.joint == joint:
        return learner  # another regularizer has taken them
    if not joint:
        return KnownFeatures(learner, query, learner.features(query.x), learner.features(query.unlabelled), joint)
    features = learner.features(torch.cat([query.x, query.unlabelled]))
    images = query.x.shape[0]
    return KnownFeatures(learner, query, features[:images], features[images:], joint)


class KnownFeatures(WrappedLearner):
    """A learner whose feature maps of a query's images, source [N,D,h,w], and of the target's [U,D,h,w] are known.

    What replace() returns is none: of other weights the features are others.
    """

    def __init__(self, learner: Learner, query: Batch, source: Tensor, target: Tensor, joint: bool) -> None:
        super().__init__(learner)
        self.query, self.source, self.target, self.joint = query, source, target, joint

    def __call__(self, x: Tensor) -> Tensor:
        return self.part("head", self.source.flatten(1)) if x is self.query.x else self.learner(x)

    def features(self, x: Tensor) -> Tensor:
        return self.source if x is self.query.x else self.learner.features(x)
