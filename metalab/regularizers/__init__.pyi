from .adversarial import AdvFGSM as AdvFGSM
from .adversarial import AdvPGD as AdvPGD
from .base import (
    ATTACKS as ATTACKS,
)
from .base import (
    Hooks as Hooks,
)
from .base import (
    ObjectiveContext as ObjectiveContext,
)
from .base import (
    ObjectiveFactory as ObjectiveFactory,
)
from .base import (
    Penalized as Penalized,
)
from .base import (
    Regularizer as Regularizer,
)
from .base import (
    combine as combine,
)
from .base import (
    identity_loss as identity_loss,
)
from .class_balance import ClassBalanced as ClassBalanced
from .coral import CORAL as CORAL
from .dann import DANN as DANN
from .distillation import Distill as Distill
from .dropout import DropBlock as DropBlock
from .dropout import Dropout as Dropout
from .entropy_target import EntropyTarget as EntropyTarget
from .input_noise import Augmentation as Augmentation
from .input_noise import Noise as Noise
from .learned_loss import LearnedLoss as LearnedLoss
from .manifold_mixup import ManifoldMixup as ManifoldMixup
from .mixstyle import MixStyle as MixStyle
from .mixup import CutMix as CutMix
from .mixup import Mixup as Mixup
from .mmd import MMD as MMD
from .output_penalties import Confidence as Confidence
from .output_penalties import Entropy as Entropy
from .output_penalties import LabelSmoothing as LabelSmoothing
from .pseudo_labels import PseudoLabels as PseudoLabels
from .replay import Replay as Replay
from .rotation import Rotation as Rotation
from .weight_penalties import L2 as L2
from .weight_penalties import GradientNorm as GradientNorm
