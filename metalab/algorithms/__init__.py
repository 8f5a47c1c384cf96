"""conf/algo: how a model is adapted to a support set; a folder a family, a file a paper."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
