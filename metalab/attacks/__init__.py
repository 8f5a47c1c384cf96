"""conf/attack: from a model, images and labels to adversarial images; no episode and no report is known here."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
