"""Image sets as uint8 tensors, batched augmentation, and the protocols, which say who trains on which images.

>>> images = load("digits")
>>> images.train.images.shape
torch.Size([1437, 3, 32, 32])
"""

from ._augment import augment, to_float
from ._load import load
from .base import ImageSet, Split
from .protocol import Access, Protocol, protocol

__all__ = ["Access", "ImageSet", "Protocol", "Split", "augment", "load", "protocol", "to_float"]
