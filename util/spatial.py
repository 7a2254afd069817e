"""Where a cell of the feature grid lies in the picture."""

import numpy as np


def coordinates(rows: int, columns: int) -> np.ndarray:
    """Describe each cell of a grid by its place and size.

    Args:
      rows, columns: int, the grid's size in cells.

    Returns:
      float32 [rows, columns, 8]: left, top, right, bottom, centre x, centre y, all in
      [-1, 1] over the picture, then 1 / columns and 1 / rows.
    """
    top, left = np.meshgrid(
        np.arange(rows) / rows * 2 - 1,
        np.arange(columns) / columns * 2 - 1,
        indexing="ij",
    )
    right, bottom = left + 2 / columns, top + 2 / rows
    centre_x, centre_y = left + 1 / columns, top + 1 / rows
    width, height = np.full_like(left, 1 / columns), np.full_like(top, 1 / rows)
    return np.stack(
        [left, top, right, bottom, centre_x, centre_y, width, height], axis=2
    ).astype(np.float32)
