"""The ranges that plug-ins declare for their numbers in the signature of their constructor.

``epochs: Count`` says all that is needed: a specification is checked against it before anything is built.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from .errors import UserError

MOST = 10**6
"""The largest number of anything, and the largest size of a number without a range of its own: what lies beyond is a
slip of the pen, and would run for years or fill any memory."""
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1000)]
Weight = Annotated[float, Field(ge=0)]
Looks = Annotated[int, Field(ge=1, le=1000)]


def check(what: str, value: Any) -> None:
    """Refuse a number that no plug-in can work with.

    >>> check("gaussian: sigma", float("inf"))
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: gaussian: sigma is inf; expected a number from -1000000 to 1000000
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not abs(value) <= MOST:  # a NaN is not, either
        # Python refuses to write numbers of thousands of digits.
        long = isinstance(value, int) and value.bit_length() > 100
        shown = "a number of more than 30 digits" if long else str(value)
        raise UserError(f"{what} is {shown}; expected a number from -{MOST} to {MOST}")
