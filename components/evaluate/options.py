"""How an evaluation is made."""

import math
from dataclasses import dataclass

from latentfaces.common.options import check, option


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of an evaluation."""

    seed: int = option(
        0,
        help="Of all random numbers: the same seed gives the same result.",
        minimum=0,
        maximum=math.inf,
    )

    def __post_init__(self) -> None:
        """Checks the options; raises `UserError`."""
        check(self)
