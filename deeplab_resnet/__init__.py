"""DeepLab's ResNet-101, the frozen eyes of the model."""

from deeplab_resnet.model import (
    CHANNELS,
    LEVELS,
    UNITS,
    calibrate,
    features,
    stored_units,
)

__all__ = ["CHANNELS", "LEVELS", "UNITS", "calibrate", "features", "stored_units"]
