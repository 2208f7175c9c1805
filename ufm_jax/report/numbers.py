"""How the report writes numbers. A number that is not finite or not known is an en dash."""

import math

UNKNOWN = "–"
_SPACE = "\N{NO-BREAK SPACE}"
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))


def significant(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits, grouped thousands and no exponent if short."""
    if not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent >= 9 or exponent < -4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def fixed(value: float, decimals: int) -> str:
    """``value`` with ``decimals`` decimals, so that a column aligns."""
    return f"{value:,.{decimals}f}" if math.isfinite(value) else UNKNOWN


def percent(fraction: float, decimals: int = 0) -> str:
    """A fraction 0..1 in per cent."""
    return f"{100 * fraction:.{decimals}f}{_SPACE}%" if math.isfinite(fraction) else UNKNOWN


def count(number: int, noun: str) -> str:
    """``1 client``, ``1,200 clients``."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits: ``4.2 s``, ``3 min 10 s``, ``2 h 5 min``."""
    if not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{significant(seconds, 2)}{_SPACE}s"
    minutes, second = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min{_SPACE}{second}{_SPACE}s"
    hours, minute = divmod(minutes, 60)
    return f"{hours:,}{_SPACE}h{_SPACE}{minute}{_SPACE}min"


def size(amount: float) -> str:
    """Bytes in the unit that suits: ``0.1 MB``, ``12.3 GB``."""
    divisor, unit = unit_of_size(amount)
    return f"{fixed(amount / divisor, 1)}{_SPACE}{unit}"


def unit_of_size(amount: float) -> tuple[float, str]:
    """The bytes of the unit that suits a number of them, and its name."""
    return next((unit for unit in _SIZES if amount >= unit[0]), _SIZES[-1])


def parameters(number: int) -> str:
    """``5.72 million parameters``."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{significant(number / size)} {word} parameters"
    return count(number, "parameter")
