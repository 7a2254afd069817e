"""What papers and releases say of the models: scores, and how much they compute.

It is data alone, so that reports and the benchmark need no TensorFlow for it.
"""

from typing import Dict, NamedTuple


class Reference(NamedTuple):
    """What is known of a model; nothing is known of most new ones.

    Attributes:
      source: whose scores they are.
      scores: data set -> split -> overall IoU with DenseCRF in per cent.
      gflop: of the published implementation, a sentence: "test", "train" -> GFLOP.
      rates: its GFLOP a second for each GFLOP a second of the machine's float32
        product, on two cores where that reached 187: "test", "crf", "train". It sees
        one sentence at a time, however many there are; with DenseCRF one took 2.33 s.
      peak_mb: most memory it held: case of a part, such as "train 1" -> 10^6 bytes.
    """

    source: str = ""
    scores: Dict[str, Dict[str, float]] = {}  # noqa: RUF012
    gflop: Dict[str, float] = {}  # noqa: RUF012
    rates: Dict[str, float] = {}  # noqa: RUF012
    peak_mb: Dict[str, int] = {}  # noqa: RUF012


REFERENCES = {
    "CMPC_model": Reference(
        source="CMPC, in its later release",
        scores={
            "unc": {"val": 62.47, "testA": 65.08, "testB": 60.82},
            "unc+": {"val": 50.25, "testA": 54.04, "testB": 43.47},
            "Gref": {"val": 49.89},
            "referit": {"test": 65.58},
        },
        gflop={"test": 253, "train": 490},
        rates={"test": 0.70, "crf": 253 / 2.33 / 187, "train": 0.62},
        peak_mb={"train 1": 4400},
    )
}


def of(model: str) -> Reference:
    """Return what is known of a model, by its name in `models.MODELS`.

    Example:
      >>> of("CMPC_model").scores["unc"]["val"]
      62.47
    """
    return REFERENCES.get(model, Reference())
