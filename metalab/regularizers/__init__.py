"""conf/reg: what wraps, or adds to, a training objective; reg=[l2,dropout] takes several."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
