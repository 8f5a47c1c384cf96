"""conf/engine: how the T tasks of a meta-batch run, one by one, vectorized, or as a CUDA graph."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
