"""The account of who starts the pool: it owns the agents here, and is not the admin.

An agent holds the password of its owner, and what runs beside it may come to know that; so it must not be
the one that the pool is run with. The account is made over gRPC like anybody's. Its password is kept in
`secrets/` under its name, which is how the next start knows whose it is.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from local_pool.gateway_probe import GatewayProbe, OperatorRefusedError
from local_pool.private_files import kept_secret

NAME = "local"
_MORE_BYTES = 3


@dataclass(frozen=True, slots=True)
class LocalAccount:
    name: str
    password_file: Path

    def password(self) -> str:
        return kept_secret(self.password_file)


def kept_account(folder: Path) -> LocalAccount | None:
    """That of earlier starts."""
    found = sorted(path for path in folder.glob(f"{NAME}*") if path.is_file())
    return LocalAccount(found[0].name, found[0]) if found else None


class Opening:
    """Finds the account or makes it, a try at a time. Raises OperatorRefusedError when it is not let in."""

    def __init__(self, link: GatewayProbe, folder: Path) -> None:
        self._link = link
        self._folder = folder
        kept = kept_account(folder)
        self._was_kept = kept is not None
        self.account = kept or LocalAccount(NAME, folder / NAME)

    def attempt(self) -> bool:
        """True when it is logged in. False: ask again."""
        account, password = self.account, self.account.password()
        if self._link.register(account.name, password) is None:
            return False
        try:
            return self._link.log_in(account.name, password)
        except OperatorRefusedError as error:
            if self._was_kept:
                raise OperatorRefusedError(
                    f"the gateway does not let {account.name}, who owns the agents here, in: {error}. If the "
                    f"password was changed, write the new one into {account.password_file}"
                ) from error
        # The name is somebody else's: of an older pool's user, or of a stranger who was quicker.
        account.password_file.unlink()
        name = f"{NAME}-{secrets.token_hex(_MORE_BYTES)}"
        self.account = LocalAccount(name, self._folder / name)
        return False
