"""Section `[pictures]`: rules for the pictures that are kept."""

from __future__ import annotations

from dataclasses import dataclass

from cmdiad_runtime.support.records import require, require_integer, require_number


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The keys of the section `[pictures]`.

    Attributes:
        ng: True to keep the pictures of every part that is NG.
        near_share: Pictures of OK parts are kept if the score is within this share of the threshold: with 0.1 from 90 %
            of the threshold on. 0 keeps none of them for this reason.
        one_in: One in this number of the other OK parts is kept; 0 keeps none of them.
        overlay: True to keep a picture with the heatmap, too.
        days: Number of days after which pictures are removed.
        gigabytes: Largest size of all pictures in gigabytes (10^9 bytes). The oldest ones leave first.
        least_free_gigabytes: Free space on the disk that pictures never use, in gigabytes.
    """

    ng: bool = True
    near_share: float = 0.1
    one_in: int = 100
    overlay: bool = True
    days: int = 30
    gigabytes: float = 20.0
    least_free_gigabytes: float = 2.0

    def __post_init__(self) -> None:
        for name in ("ng", "overlay"):
            require(isinstance(getattr(self, name), bool), self, name, "true or false")
        require_number(self, "near_share", 0, 1)
        require_integer(self, "one_in", 0, 1_000_000_000)
        require_integer(self, "days", 1, 36_500)
        require_number(self, "gigabytes", 0, 1_000_000)
        require_number(self, "least_free_gigabytes", 0, 1_000_000)
