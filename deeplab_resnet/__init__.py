"""DeepLab's ResNet-101, the frozen eyes of the model."""

from deeplab_resnet.model import CHANNELS, LEVELS, calibrate, features

__all__ = ["CHANNELS", "LEVELS", "calibrate", "features"]
