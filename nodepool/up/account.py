"""The account of who starts the pool: it owns the agents here, and is not the admin.

An agent holds the password of its owner, and what runs beside it may come to know that; so it must not be
the one that the pool is run with. The account is made over gRPC like anybody's. Its password is kept in
`secrets/` under its name, which is how the next start knows whose it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodepool.up.files import kept_secret
from nodepool.up.gateway_link import GatewayLink, OperatorRefusedError

NAME = "local"
_MOST_NAMES = 20


@dataclass(frozen=True, slots=True)
class LocalAccount:
    name: str
    password_file: Path

    def password(self) -> str:
        return kept_secret(self.password_file)


def candidates(folder: Path) -> list[LocalAccount]:
    """The one of earlier starts, else names to try: somebody else may have one of them already."""
    names = [NAME, *(f"{NAME}-{number}" for number in range(2, _MOST_NAMES + 1))]
    accounts = [LocalAccount(name, folder / name) for name in names]
    kept = [account for account in accounts if account.password_file.exists()]
    return kept[:1] or accounts


class Opening:
    """Finds the account or makes it, a try at a time. Raises OperatorRefusedError when no name can be had."""

    def __init__(self, link: GatewayLink, folder: Path) -> None:
        self._link = link
        self._left = candidates(folder)
        self._was_kept = len(self._left) == 1
        self.account = self._left[0]

    def attempt(self) -> bool:
        """True when it is logged in. False: ask again."""
        account = self.account = self._left[0]
        password = account.password()
        made = self._link.register(account.name, password)
        if made is None:
            return False
        try:
            return self._link.log_in(account.name, password)
        except OperatorRefusedError as error:
            if self._was_kept:
                raise OperatorRefusedError(
                    f"the gateway does not let {account.name}, who owns the agents here, in: {error}. If the "
                    f"password was changed, write the new one into {account.password_file}"
                ) from error
            account.password_file.unlink()
            self._left = self._left[1:]
            if not self._left:
                raise
            return False
