"""Installs what the commands need, on either TensorFlow (see README.md)."""

import os

from setuptools import find_packages, setup

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "README.md"), encoding="utf-8") as file:
    README = file.read()
PAPER = "https://arxiv.org/abs/2010.00514"

OLD = '; python_version < "3.8"'
NEW = '; python_version >= "3.10"'

PLOT = ["matplotlib>=3.5,<4"]
EXPORT = [
    "tf2onnx>=1.16,<1.17" + OLD,
    "onnx>=1.13,<1.15" + OLD,
    "onnxruntime>=1.10,<1.15" + OLD,
    "tf2onnx>=1.17,<2" + NEW,
    "onnx>=1.17,<2" + NEW,
    "onnxruntime>=1.18,<2" + NEW,
]
WEB = ["gradio>=6,<7" + NEW]
DENSE_CRF = "pydensecrf2>=1.1,<2"

setup(
    name="refseg",
    version="0.1.0",
    description="Referring image segmentation with CMPC (CVPR 2020), exact and tested",
    long_description=README,
    long_description_content_type="text/markdown",
    url=PAPER,
    project_urls={"Paper": PAPER},
    license="MIT",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.7",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    # TensorFlow has no release for Python 3.14 yet.
    python_requires=">=3.7,!=3.8.*,!=3.9.*,<3.14",
    packages=find_packages(include=["deeplab_resnet", "util", "util.*"]),
    package_data={"deeplab_resnet": ["py.typed"], "util": ["py.typed"]},
    py_modules=["CMPC_model", "build_batches", "trainval_model"],
    entry_points={
        "console_scripts": [
            "refseg = trainval_model:main",
            "refseg-build = build_batches:main",
        ]
    },
    install_requires=[
        # The published environment. A newer protobuf breaks its import.
        "tensorflow-gpu==1.15.*" + OLD,
        "protobuf<3.21" + OLD,
        "numpy>=1.16,<1.22" + OLD,
        "scikit-image>=0.16,<0.20" + OLD,
        "pillow>=8,<10" + OLD,
        "pycocotools>=2.0.4,<2.0.8" + OLD,
        DENSE_CRF + OLD,
        # Today's.
        "tensorflow>=2.16,<2.23" + NEW,
        "numpy>=1.26,<3" + NEW,
        "scikit-image>=0.22,<0.27" + NEW,
        "pillow>=10,<14" + NEW,
        "pycocotools>=2.0.8,<2.1" + NEW,
        # Both.
        "scipy>=1.3,<2",
        "tqdm>=4.50,<5",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.16,<2.23" + NEW],
        # It is compiled on installation, which it can be up to Python 3.12 only.
        "pydensecrf": [DENSE_CRF + '; python_version < "3.13"'],
        "plot": PLOT,
        "export": EXPORT,
        "web": WEB,
        "test": PLOT
        + EXPORT
        + WEB
        + [
            "playwright>=1.40,<2" + NEW,
            "pytest>=7,<10",
            "pytest-xdist>=3,<4",
            "tensorboard>=2.16,<3" + NEW,
            "ruff==0.17.*" + NEW,
        ],
    },
)
