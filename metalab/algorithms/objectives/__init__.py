"""What is differentiated in training, and the losses it is made of: algo.objective, algo.episode_loss."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
