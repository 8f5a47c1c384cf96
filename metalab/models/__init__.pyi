from .backbones import FC as FC
from .backbones import Conv4 as Conv4
from .backbones import ResNet12 as ResNet12
from .backbones import ResNet18 as ResNet18
from .pixels import Pixels as Pixels
from .pretrained.open_clip_backbone import OpenCLIP as OpenCLIP
from .pretrained.timm_backbone import Timm as Timm
from .pretrained.torchvision_backbone import Torchvision as Torchvision
