"""DeepLab's ResNet-101, the frozen eyes of the model."""

from deeplab_resnet.model import (
    CHANNELS,
    LEVELS,
    UNITS,
    WIDTH,
    calibrate,
    features,
    stored_sizes,
)

__all__ = [
    "CHANNELS",
    "LEVELS",
    "UNITS",
    "WIDTH",
    "calibrate",
    "features",
    "stored_sizes",
]
