"""Runs `trainval_model.py -m train` with a line of the log every few steps.

The backbone is small.

Usage: python quick_train.py EVERY [options of trainval_model.py]
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.join(HERE, "golden")]

import networks  # noqa: E402

import trainval_model  # noqa: E402
from util.training import progress, start  # noqa: E402

if __name__ == "__main__":
    progress.EVERY = int(sys.argv[1])
    start.CALIBRATION_IMAGES = 4
    with networks.small_backbone():
        sys.exit(trainval_model.main(["-m", "train", *sys.argv[2:]]))
