"""conf/data: data sets, the files and stores they lie in, and the episodes that are drawn from them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
