"""Runs `trainval_model.py -m train` with a line of the log every few steps.

Usage: python quick_train.py EVERY [options of trainval_model.py]
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import trainval_model  # noqa: E402
from util import report, training  # noqa: E402

if __name__ == "__main__":
    report.EVERY = int(sys.argv[1])
    training.CALIBRATION_PICTURES = 4
    sys.exit(trainval_model.main(["-m", "train", *sys.argv[2:]]))
