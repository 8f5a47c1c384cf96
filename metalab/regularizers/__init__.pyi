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
from .dropout import DropBlock as DropBlock
from .dropout import Dropout as Dropout
from .input_noise import Augmentation as Augmentation
from .input_noise import Noise as Noise
from .mixup import CutMix as CutMix
from .mixup import Mixup as Mixup
from .output_penalties import Confidence as Confidence
from .output_penalties import Entropy as Entropy
from .output_penalties import LabelSmoothing as LabelSmoothing
from .weight_penalties import L2 as L2
from .weight_penalties import GradientNorm as GradientNorm
