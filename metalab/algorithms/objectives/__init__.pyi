from .auxiliary import AuxiliaryLoss as AuxiliaryLoss
from .classification import ClassificationLoss as ClassificationLoss
from .implicit_gradient import ImplicitGradient as ImplicitGradient
from .losses import (
    binary_cross_entropy as binary_cross_entropy,
)
from .losses import (
    binary_cross_entropy_of_shares as binary_cross_entropy_of_shares,
)
from .losses import (
    mean_squared_error as mean_squared_error,
)
from .multi_step import MultiStep as MultiStep
from .pairs import PairwiseLoss as PairwiseLoss
from .parameter_distance import ParameterDistance as ParameterDistance
from .prediction import cross_entropy as cross_entropy
from .query_loss import QueryLoss as QueryLoss
from .reconstruction import ReconstructionLoss as ReconstructionLoss
from .sequence import SequenceLoss as SequenceLoss
