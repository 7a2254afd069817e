"""DeepLab's ResNet-101, the frozen eyes of the model."""

from deeplab_resnet.model import calibrate, features

__all__ = ["calibrate", "features"]
