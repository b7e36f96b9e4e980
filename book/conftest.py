"""How nbval compares a notebook's stored outputs with fresh ones: exactly, but for what no two machines share.

Two pictures may differ by 1 % of the brightness range (root mean square), so a stale figure fails.  Two numbers
may differ by one unit in their last printed digit or by 1e-6; whole numbers and everything else not at all.
"""

import base64
import io
import math
import re

import numpy as np
from nbval.plugin import IPyNbCell
from PIL import Image

PICTURE = re.compile(
    r"iVBORw0KGgo[A-Za-z0-9+/=\n]+"
)  # what every base64 PNG starts with
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d*(?:e[+-]?\d+)?|e[+-]?\d+)(?![\w.])")


def _pixels(png: str) -> np.ndarray:
    return (
        np.asarray(
            Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"),
            dtype=float,
        )
        / 255
    )


def same_picture(a: str, b: str) -> bool:
    """Whether two base64 PNGs look the same."""
    x, y = _pixels(a), _pixels(b)
    return x.shape == y.shape and math.sqrt(((x - y) ** 2).mean()) < 0.01


def _last_digit(number: str) -> float:
    mantissa, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def same_number(a: str, b: str) -> bool:
    """Whether two printed numbers agree up to the rounding of the last digit, or to 1e-6."""
    allowed = max(1.01 * _last_digit(a), 1e-6 * abs(float(a)))
    return abs(float(a) - float(b)) <= allowed


def same(new: str, stored: str) -> bool:
    """Whether two outputs are equal up to pictures that look the same and the last digits of numbers."""
    for pattern, equal in ((PICTURE, same_picture), (NUMBER, same_number)):
        pairs = list(zip(pattern.findall(new), pattern.findall(stored)))
        if not all(a == b or equal(a, b) for a, b in pairs):
            return False
        new, stored = pattern.sub("□", new), pattern.sub("□", stored)
    return new == stored


def _align(new, stored):
    """`stored` where the new output is the same up to what is allowed, so that nbval's own comparison passes."""
    if isinstance(new, dict) and isinstance(stored, dict):
        return type(new)(
            {key: _align(value, stored.get(key)) for key, value in new.items()}
        )
    return (
        stored
        if isinstance(new, str) and isinstance(stored, str) and same(new, stored)
        else new
    )


_compare_outputs = IPyNbCell.compare_outputs


def compare_outputs(
    cell: IPyNbCell, new: list, stored: list, skip_compare=None
) -> bool:
    if cell.cell.source.rstrip().endswith(
        ";"
    ):  # nbval keeps no history, so IPython does not see the semicolon
        new = [
            output for output in new if output["output_type"] != "execute_result"
        ]
    new = [_align(a, b) for a, b in zip(new, stored)] + new[len(stored) :]
    skip = set(cell.parent.skip_compare) - {"image/png", "image/jpeg"}
    return _compare_outputs(cell, new, stored, skip)


IPyNbCell.compare_outputs = compare_outputs
