"""A head that sharpens a score map: a small network in the form of a U.

It is no part of a paper. Public training runs of CMPC with it (2021) gained 0.4 points
of overall and 1.1 of mean IoU, as means over seven splits; see ckpts/README.md.

Axes: B batch of sentences, P images, H rows, W columns, C channels.
"""

from util.graph.compat import tf
from util.graph.layers import conv

SIDE = 224  # pixels of the refined score, whatever the size of the image
CHANNELS = 64
HALVINGS = ("2", "3", "4", "5")
INPUTS = {"score": 1, "image": 4, "edges": 7}  # channels that the head reads


def refine(score, image, kind, share):
    """Correct a score map, with what the image shows where it reads that.

    With u the score and v the image, both resized to SIDE x SIDE: down without an
    activation, b1 = W x and b_k = pool(W b_{k-1}); up, l_{k} = b_k + resize(relu(W
    l_{k+1})) from l5 = b5; and u + W l1 is the result. All convolutions are 3x3.

    Args:
      score: float32 [B, h, w, 1], logits.
      image: float32 [P, H, W, 3], BGR minus the mean.
      kind: str, one of INPUTS: x = u, or [u, v], or [u, the edges of v].
      share: see `base.Model.head`.

    Returns:
      (refined, of_image): float32 [B, SIDE, SIDE, 1], logits; and the list of what the
      head takes from the image, float32 [P, SIDE, SIDE, C], or nothing.

    Variables:
      b1 [3, 3, 1 | 4 | 7, 64], b2 to b5, l4 to l1, predrf [3, 3, 64, 1]: see conv
    """
    first = resize(score, SIDE)
    x, of_image = first, []
    if kind != "score":
        seen = resize(image, SIDE)
        seen = edges(seen) if kind == "edges" else seen
        of_image = [seen]
        x = tf.concat([first, share(seen) + tf.zeros_like(first)], axis=3)
    down = [conv(x, CHANNELS, 3, "b1")]
    for number in HALVINGS:
        convolved = conv(down[-1], CHANNELS, 3, "b" + number)
        down.append(tf.nn.max_pool2d(convolved, 2, 2, "SAME"))
    up = down.pop()
    for number in range(len(down), 0, -1):
        skipped = down.pop()
        more = conv(up, CHANNELS, 3, f"l{number}", tf.nn.relu)
        up = skipped + resize(more, skipped.shape.as_list()[1])
    return first + conv(up, 1, 3, "predrf"), of_image


def resize(x, side):
    """Resize float32 [B, H, W, C] to [B, side, side, C], bilinear as all scores are."""
    return tf.image.resize_bilinear(x, [side, side])


def edges(x):
    """Return how an image changes from row to row and from column to column.

    Args:
      x: float32 [P, H, W, C].

    Returns:
      float32 [P, H, W, 2 * C]: the next row minus this one, then the next column minus
      this one; 0 in the last row and the last column.

    Example:
      >>> with tf.Session() as session:
      ...     session.run(edges(tf.constant([[[[1.0], [3.0]]]]))).tolist()
      [[[[0.0, 2.0], [0.0, 0.0]]]]
    """
    down = tf.pad(x[:, 1:] - x[:, :-1], [[0, 0], [0, 1], [0, 0], [0, 0]])
    right = tf.pad(x[:, :, 1:] - x[:, :, :-1], [[0, 0], [0, 0], [0, 1], [0, 0]])
    return tf.concat([down, right], axis=3)
