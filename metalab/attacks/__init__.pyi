from .autoattack import AutoAttack as AutoAttack
from .fab import FAB as FAB
from .fgsm import FGSM as FGSM
from .pgd import PGD as PGD
from .pgd import TargetedPGD as TargetedPGD
from .square import Square as Square
