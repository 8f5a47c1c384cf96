from .auto import AutoEngine as AutoEngine
from .learn2learn import Learn2Learn as Learn2Learn
from .vectorized import Vectorized as Vectorized
