"""conf/backbone: backbones, layers that are right under torch.func, and the net that is built from them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
