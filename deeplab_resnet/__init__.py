"""DeepLab's ResNet-101, the frozen eyes of the model."""

from deeplab_resnet.model import LEVELS, STRIDE, calibrate, features

__all__ = ["LEVELS", "STRIDE", "calibrate", "features"]
