"""The shapes everything agrees on. T tasks, N images, C H W, D features, K classes (way)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

AttackedImages = Literal["query", "support", "both"]
Interpolation = Literal["bicubic", "bilinear"]


class FixedEpisodes(NamedTuple):
    """Episodes that are given and not drawn; of each class the first images are the support, the next ones queries."""

    classes: Tensor  # int64 [E,way]
    shot: int
    query: int
    names: list[str]  # [E] what people are shown
    errors: dict[str, float]  # published error rates to stand beside a result, shares


class ClassFamilies(NamedTuple):
    """Which classes may meet: those of an episode are of one family, an alphabet or a data set."""

    family: Tensor  # int64 [K], of each class
    names: list[str]  # [F]
    source: list[str]  # [F] the data set of each family
    weight: Tensor  # float64 [F], above 0: how often an episode is of the family, beside the others


class UnlabelledImages(NamedTuple):
    """Images of another domain, the target, which training sees beside its own: there is no place for their labels."""

    images: Tensor  # uint8 [M,C,H,W], of the size of the split's own, may be memory-mapped
    image_ids: list[str]  # [M] as of Split.image_ids: what was seen unlabelled stands on the record
    name: str  # of the domain, what people are shown


class Resampling(NamedTuple):
    """How often training draws its classes and images, beside the others; None: all alike, an image once a round."""

    classes: Tensor | None  # float64 [K], above 0
    items: Tensor | None  # int64 [n], what mini-batches go through, as places in the images class by class, some twice
    weights: Tensor | None  # float64 [n], above 0: how often mini-batches draw each item (or image), with replacement


@dataclass(frozen=True)
class Split:
    """The classes of one split, and the images they are made of."""

    # uint8 [N,C,H,W], the images of a class stand one after another, may be memory-mapped; where a frozen net is
    # evaluated, float32 [N,D,h,w]: their features
    images: Tensor
    first: Tensor  # int64 [K], index of each class's first image
    count: Tensor  # int64 [K], how many images follow it
    ids: list[str]  # [K] global class ids ("omniglot:Greek/character01"); rotations of a character share theirs
    names: list[str]  # [K] what people are shown
    files: list[str] = field(default_factory=list[str])  # [N] where each image came from
    image_ids: list[str] = field(default_factory=list[str])  # [N] "image:digest": one's own; "published:digest" or ""
    turns: Tensor | None = None  # int64 [K], quarter turns that make the class from its images; None: upright
    random_turns: bool = False  # a quarter turn is drawn for each class of each episode
    families: ClassFamilies | None = None  # None: any classes may meet
    group: Tensor | None = None  # int64 [N], 0..: images of one group never stand on both sides of an episode
    query_images: Tensor | None = None  # bool [N]: an episode's queries are of these alone, its support of the others
    support: "Split | None" = None  # where all classes are told apart at once: whose images the supports are drawn from
    fold: Tensor | None = None  # int64 [N], 0..: where they are, the images of one fold are asked, and all others known
    fixed: FixedEpisodes | None = None  # the only episodes that a protocol allows
    by_image: bool = False  # the other splits have the same classes and other images: a classifier's, without episodes
    class_sizes: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])  # split: class: images
    target: UnlabelledImages | None = None  # of the train split, what Batch.unlabelled of a query is drawn from
    aliases: list[str] = field(default_factory=list[str])  # [m K] further ids of the classes, of all K for each m
    resampling: Resampling | None = None  # of the train split, by bagging or boosting; None: nothing is weighted
    note: str = ""  # what a referee must know, "re-encoded, JPEG q75"

    @property
    def protocol(self) -> Literal["classes", "images"]:
        """What the data set splits, as data.protocol names it."""
        return "images" if self.by_image else "classes"


class Data(Protocol):
    """A data set: what a YAML of conf/data builds."""

    def load(self, split: str) -> Split:
        """Return the classes of a split.

        Args:
            split: train, val or test.

        Raises:
            UserError: with what to fetch and where to put it, where the images are not at hand. Its subclass NoSplit
                (metalab.data.storage.store) where the data has no such split but others.
        """
        ...


class Batch(NamedTuple):
    x: Tensor  # [N,C,H,W] in [0,1]
    y: Tensor  # [N] in 0..way-1
    # [U,C,H,W], U = 0 where there is none (vmap refuses None): of a support further images of the task's classes, of a
    # query in training images of Split.target
    unlabelled: Tensor


class Episode(NamedTuple):
    """One task; a meta-batch is the same type with a leading T on every tensor."""

    support: Batch
    query: Batch


class TaskResult(NamedTuple):
    loss: Tensor  # [] what is differentiated
    correct: Tensor  # bool [N], per query image
    scalars: dict[str, Tensor]  # what people are shown: loss, accuracy after each inner step, ...
    state: dict[str, Tensor]  # buffers that outlive the task; the engine stores their mean over the meta-batch


EpisodeSource = Callable[[int], Episode]  # meta-step -> meta-batch; the same step gives the same episodes
Model = Callable[[Tensor], Tensor]  # images -> logits [N,K]
Loss = Callable[[Model, Batch], Tensor]  # calls the model itself, so that attacks and mixup can wrap it


class Learner(Protocol):
    """The meta-learned net, seen through its current (fast) weights. It never changes: replace() gives another."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits [N,K] of images x [N,C,H,W], by body and head."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Return the feature map [N,D,h,w] of images x [N,C,H,W], by the body."""
        ...

    def part(self, name: str, *args: Tensor) -> Tensor:
        """Return the output of one of the algorithm's own parts: head, relation, ..."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Return the weights by name: body.0.0.weight, head.weight, ...; those that a backbone keeps frozen are not."""
        ...

    def buffers(self) -> dict[str, Tensor]:
        """Return all buffers by name, as running statistics."""
        ...

    def grad(
        self, loss: Callable[["Learner"], Tensor], names: list[str] | None = None, first_order: bool = False
    ) -> dict[str, Tensor]:
        """Return the gradient of a loss of this learner.

        Args:
            loss: from a learner, whose weights are those that are differentiated, to a scalar.
            names: of the weights to differentiate by; None: all of them.
            first_order: whether the gradient is a constant of the outer loop.

        Returns:
            A gradient of each weight's shape, by its name; a weight that the loss does not depend on has none.
        """
        ...

    def replace(self, tensors: dict[str, Tensor]) -> "Learner":
        """Return a learner with these weights or buffers, by name, in the place of its own."""
        ...


class Backbone(Protocol):
    """What a YAML of conf/backbone builds: it makes the body for the images at hand."""

    def build(self, channels: int, size: int) -> nn.Module:
        """Return a net from images [N,channels,size,size], normalized, to features [N,D,h,w].

        Raises:
            UserError: for images that it cannot take.
        """
        ...


class ImagePreparation(NamedTuple):
    """How images become what weights were trained on: resized, cropped at the centre, then (x - mean) / std."""

    size: int  # pixels, height and width of the centre crop
    resize: int | None  # pixels of the shorter side before it; None: the whole image is stretched to the square
    interpolation: Interpolation
    mean: list[float]  # of each channel, of values in [0,1]
    std: list[float]


@runtime_checkable
class PreparedBackbone(Backbone, Protocol):
    """A backbone that expects images of a size and a preparation of its own.

    Apart from PretrainedBackbone, so that one of the user's own that was written before it is still one.
    """

    def preparation(self) -> ImagePreparation | None:
        """Return how its weights' images were prepared; None: it takes any."""
        ...


@runtime_checkable
class PretrainedBackbone(Backbone, Protocol):
    """A backbone that can have weights from elsewhere."""

    def normalization(self) -> Any:
        """Return the models.layers.Normalize that the weights expect of images in [0,1]; None: the data's own."""
        ...

    def seen(self) -> set[str]:
        """Return the global ids of the classes that the weights were trained on.

        Raises:
            UserError: where nobody says which these are.
        """
        ...

    def load(self, body: nn.Module) -> None:
        """Give the weights to what build has returned; nothing where there are none.

        Raises:
            UserError: where they cannot be had or do not fit.
        """
        ...


@runtime_checkable
class NotedBackbone(Backbone, Protocol):
    """A backbone with something that a referee must know; apart from PretrainedBackbone, as PreparedBackbone is."""

    def note(self) -> str:
        """Return what stands on every result, as that nobody knows what the weights saw; empty: nothing."""
        ...


class Algorithm(Protocol):
    """A method of meta-learning, a dataclass with a field `way`: what a YAML of conf/algo builds."""

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        """Return the modules of its own that are meta-learned beside the body.

        Args:
            body: the backbone's net.
            features: the length of its flattened output.

        Returns:
            Modules by name; the one that is called head is what a learner applies to the flattened features.
        """
        ...

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        """Yield the model (images -> logits) of a task after 0, 1, ..., steps inner steps.

        Args:
            learner: the net with its meta-learned weights.
            support: the labelled images, and the unlabelled ones, of the task.
            loss: what inner steps descend; call this one, which regularizers and attacks wrap.
            steps: algo.steps in training, algo.test_steps at validation and test. A metric method takes none and
                yields once.
        """
        ...


@dataclass(frozen=True)
class AlgorithmTraits:
    """What an algorithm needs and offers beyond its two methods; the defaults are what most do.

    An algorithm that differs declares them as `traits`, an attribute of its class or a property.
    """

    head_init: str = "learned"  # how a task's head starts; zero and random bear no attack on the support in training
    frozen_body: bool = False  # adapt() sees images through learner.features alone and changes no weight of the body
    adapts_body: bool = False  # inner steps change the body: bfloat16 has too few digits for their meta-gradients
    leaves_device: bool = False  # a meta-step computes on the processor, which no CUDA graph can hold
    unlabelled: Literal["ignored", "read", "needed"] = "ignored"  # what adapt() does with support.unlabelled, as set
    without_training: Mapping[str, Any] | None = (
        None  # the settings with which it needs none, {}: as set; None: it does
    )
    exports_episode: bool = False  # adapt() is the same tensor operations for any number of supports, and no gradient
    keeps_body: bool = False  # training leaves the body's own weights as they were at its start
    transductive: bool = False  # its model infers all images of one call jointly: an answer depends on the others


@dataclass(frozen=True)
class ObjectiveTraits:
    """What a training objective learns from; one that differs declares them as `traits`, an attribute of its class."""

    learns_from_query: bool = True  # through the loss of the query, which regularizers may change
    reads: AttackedImages = "both"  # whose images the gradient depends on
    solves: bool = False  # looks at the inner problem again and again: it must be the same at each look
    classifies: bool = False  # trains one classifier of all training classes, which can be measured as it is


def algorithm_traits(algorithm: object) -> AlgorithmTraits:
    """Return what an algorithm declares, or the defaults."""
    return getattr(algorithm, "traits", AlgorithmTraits())


def preparation_of(backbone: Backbone) -> ImagePreparation | None:
    """Return the preparation of images that a backbone brings along; None: it takes any."""
    return backbone.preparation() if isinstance(backbone, PreparedBackbone) else None


def objective_traits(objective: object) -> ObjectiveTraits:
    """Return what an objective, or its class, declares, or the defaults."""
    return getattr(objective, "traits", ObjectiveTraits())


# A training objective: (the learner, an episode, the progress of training as a tensor 0..1) -> what is differentiated.
Objective = Callable[[Learner, Episode, Tensor], TaskResult]


class Engine(Protocol):
    """How the T tasks of a meta-batch run: what a YAML of conf/engine builds."""

    def grad(self, objective: Objective, net: nn.Module, episodes: Episode, progress: Tensor) -> TaskResult:
        """Add the gradient of the mean loss over T tasks to the .grad of the net's parameters.

        Args:
            objective: what is differentiated in each task.
            net: the meta-learned net; buffers that the tasks return are stored in it, as their mean.
            episodes: a meta-batch, a leading T on every tensor.
            progress: share of the training that is done, 0..1, a scalar on the episodes' device.

        Returns:
            The tasks' results with a leading T, detached.
        """
        ...

    def evaluate(self, objective: Objective, net: nn.Module, episodes: Episode) -> TaskResult:
        """Return the results of an objective on T tasks, with a leading T, without an outer graph."""
        ...
