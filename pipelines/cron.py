"""Cron expressions, as people write them and as Kubeflow reads them."""

from __future__ import annotations

import re

from latentfaces.common.errors import UserError

_FIELDS = (
    ("second", 0, 59, ""),
    ("minute", 0, 59, ""),
    ("hour", 0, 23, ""),
    ("day", 1, 31, ""),
    ("month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("weekday", 0, 6, "sun mon tue wed thu fri sat"),
)


def kubeflow_cron(text: str) -> str:
    """Returns when a schedule runs as Kubeflow writes it.

    Its six fields begin with the seconds. It takes five as well, and without a word, but as the first five
    of them: crontab's "0 3 * * 1" would run each hour in January.

    Args:
        text: crontab's five fields, or Kubeflow's six.

    Raises:
        UserError: if Kubeflow can't read it, or it names a day that never comes.
    """
    fields = text.split()
    if len(fields) not in (5, 6):
        raise UserError(
            f"--cron {text!r} has {len(fields)} fields: write five, which are minute, hour, day, month and "
            "weekday, such as '0 3 * * 1', or six with the seconds first"
        )
    fields = ["0"] * (6 - len(fields)) + fields
    values = []
    for each, (name, first, last, names) in zip(fields, _FIELDS, strict=True):
        try:
            values.append(_values(each, first, last, names.split()))
        except ValueError:
            raise UserError(
                f"--cron {text!r} has {each!r} for the {name}, which is {first} to {last}"
            ) from None
    _, _, _, days, months, _ = values
    longest = max(29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31 for month in months)
    if min(days) > longest and fields[5] in ("*", "?"):
        raise UserError(f"--cron {text!r} names a day that never comes")
    return " ".join(fields)


def _values(text: str, first: int, last: int, names: list[str]) -> set[int]:
    """Returns a field's values as github.com/robfig/cron 1.2 reads it, which is Kubeflow's parser."""

    def number(word: str) -> int:
        return first + names.index(word) if word in names else int(word)

    result: set[int] = set()
    for part in text.lower().split(","):
        form = re.fullmatch(r"(?:[*?]|([0-9a-z]+)(?:-([0-9a-z]+))?)(?:/([0-9]+))?", part)
        if form is None:
            raise ValueError
        low, high, step = form.groups()
        start = number(low) if low else first
        end = number(high) if high else last if step or not low else start
        values = range(start, end + 1, int(step or 1))
        if not values or start < first or end > last:
            raise ValueError
        result.update(values)
    return result
