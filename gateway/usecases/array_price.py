"""What an array may cost, and how long its tasks may run that name no bound."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.usecases.submit_task import price_of
from nodepool.domain.errors import InvalidInputError, NotEnoughCptError
from nodepool.domain.money.ledger import MAX_CPT
from nodepool.domain.money.pricing import covered_minutes
from nodepool.domain.tasks.new_task import RequestedTask


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPrice:
    price_per_minute: int  # of one task
    max_minutes: int
    minutes_by_balance: bool
    tasks: int
    tries: int = 1  # of each, each paid

    @property
    def of_each(self) -> int:
        return self.price_per_minute * self.max_minutes

    @property
    def most(self) -> int:
        """That all of it can cost."""
        return self.of_each * self.tasks * self.tries


def price_of_array(columns: RequestedTask, tasks: int, balance: int, max_cpt: int) -> ArrayPrice:
    """Its tasks hold their price when they are placed: the balance must cover one of them.

    Raises NotEnoughCptError where it does not, and InvalidInputError for what may cost more than `max_cpt`.
    """
    if max_cpt < 0:
        raise InvalidInputError(f"max_cpt must be 0 (for no bound) or more, not {max_cpt}")
    each, most = price_of(columns), columns["max_minutes"]
    minutes, fewer, tries = most, False, columns["retries"] + 1
    if columns["minutes_by_balance"]:
        minutes = max(1, covered_minutes(balance, each, most))
        if max_cpt:
            minutes = max(1, min(minutes, max_cpt // (each * tasks * tries)))
        fewer = minutes < most
    price = ArrayPrice(
        price_per_minute=each, max_minutes=minutes, minutes_by_balance=fewer, tasks=tasks, tries=tries
    )
    if max_cpt and price.most > max_cpt:
        raise InvalidInputError(_over(price, max_cpt))
    check_most(price.most, 0)
    if balance < price.of_each:
        raise NotEnoughCptError(
            f"a task of this array costs {each} CPT for each started minute, and holds {price.of_each} CPT "
            f"for {minutes} minutes when it is placed, but there are {balance} CPT in your account: ask for "
            "fewer max_minutes, or for less memory, CPU and GPU"
        )
    return price


def check_most(most: int, max_cpt: int) -> None:
    """What all of a job can cost. Raises InvalidInputError for more than `max_cpt`, or than there can be."""
    if max_cpt < 0:
        raise InvalidInputError(f"max_cpt must be 0 (for no bound) or more, not {max_cpt}")
    if max_cpt and most > max_cpt:
        raise InvalidInputError(
            f"this can cost {most} CPT, over its max_cpt of {max_cpt}: ask for fewer tasks or max_minutes"
        )
    if not 1 <= most <= MAX_CPT:
        raise InvalidInputError("all of it can cost more CPT than there can be; ask for less")


def _over(price: ArrayPrice, max_cpt: int) -> str:
    fitting = max_cpt // (price.price_per_minute * price.tasks * price.tries)
    what = f"max_minutes {fitting} or less would do" if fitting else "fewer tasks would do"
    tries = f", each tried {price.tries} times at the most" if price.tries > 1 else ""
    return (
        f"this array can cost {price.most} CPT ({price.tasks} tasks of {price.price_per_minute} CPT a minute "
        f"for {price.max_minutes} minutes{tries}), over its max_cpt of {max_cpt}: {what}"
    )
