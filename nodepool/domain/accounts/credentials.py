"""Rules for user names and passwords: what a name may be, which names are too much alike, what is too easy.

Rules for new names and new passwords do not touch accounts that exist: those log in as ever.
"""

from __future__ import annotations

import re
import unicodedata

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.safe_text import is_plain

_USERNAME = re.compile(r"\w[\w.@+-]{2,63}")
_SEPARATORS = ".@+_-"
_WORDS = re.compile(r"[^\W\d_]+")
MIN_PASSWORD_LENGTH = 8
MIN_DIFFERENT_CHARACTERS = 4
# bcrypt reads no further than this; a longer password would be cut without a word.
MAX_PASSWORD_BYTES = 72

# Who has such a name could be taken for a part of the pool or for who runs it.
_RESERVED = """
    admin administrator admins anonymous anybody bank broker bot broadcast credit dispatcher escrow everybody
    everyone fee fees flower gateway grant help helpdesk hivemind hive ledger mint moderator nobody node nodes
    nodepool none null official operator operators pool probe probes root security staff superuser support
    sudo system sysadmin task tasks treasury undefined unknown
    """
RESERVED_WORDS = frozenset(_RESERVED.split())
# Letters of other scripts that are drawn as these Latin ones.
_LOOK_ALIKES = str.maketrans(
    "аеорсхуіјѕһԁԛԝӏкмтнвαοερνικτυχηγωıɑɡ",
    "aeopcxyijshdqwlkmthbaoepviktuxnywiag",
)
# Those that everybody tries first; a short one is refused for its length already.
_COMMON = """
    password password1 password12 password123 password1234 passw0rd p@ssw0rd p@ssword pa55word passwort
    password! password1! passwords mypassword changeme changeme1 change-me letmein1 letmein123 welcome1
    welcome123 welcome01 iloveyou iloveyou1 iloveyou2 sunshine sunshine1 princess princess1 football football1
    baseball baseball1 basketball superman superman1 batman123 trustno1 starwars michelle jennifer computer
    computer1 internet internet1 whatever dragon123 monkey123 shadow123 master123 charlie1 jordan23 liverpool
    chocolate butterfly elizabeth alexander samantha victoria qwertyui qwertyuiop qwerty123 qwerty1234
    qwerty12345 qwertz123 qwertzuiop asdfghjk asdfghjkl zxcvbnm1 zxcvbnm123 1q2w3e4r 1q2w3e4r5t 1qaz2wsx
    q1w2e3r4 q1w2e3r4t5 zaq12wsx qazwsxedc 12345678 123456789 1234567890 12345678910 0123456789 87654321
    987654321 9876543210 0987654321 123123123 1234qwer 123qweasd abcd1234 abc12345 abcdefgh abcdefghi
    1234abcd a1b2c3d4 aa123456 a123456789 test1234 testtest testing123 admin123 admin1234 administrator
    hivemind hivemind1 hivemind123 nodepool nodepool1 default1 secret123 topsecret letmein! 11223344 31415926
    27182818 19691969 20202020 blink182 pokemon1 pokemon123 minecraft fortnite1 manchester arsenal1 chelsea1
    """
COMMON_PASSWORDS = frozenset(_COMMON.split())


def is_username(username: str) -> bool:
    """Whether an account may have this name."""
    return _USERNAME.fullmatch(username) is not None


def check_username(username: str) -> str:
    """A name that an account may have. New ones pass check_new_username() too."""
    if not is_username(username):
        raise InvalidInputError(
            "username must be 3 to 64 letters, digits, '.', '_', '@', '+' or '-', "
            "and begin with a letter or digit"
        )
    return username


def check_new_username(username: str) -> str:
    """A name that somebody may register."""
    check_username(username)
    plain = unicodedata.normalize("NFKC", username)
    if plain != username or not is_plain(username):
        hint = f": write it as {plain!r}" if is_username(plain) and is_plain(plain) else ""
        raise InvalidInputError(f"username has characters that look like others{hint}")
    if username[0] in _SEPARATORS or username[-1] in _SEPARATORS:
        raise InvalidInputError("username must begin and end with a letter or digit")
    words = _WORDS.findall(name_key(username))
    if words and all(word in RESERVED_WORDS for word in words):
        raise InvalidInputError(f"the name {username} could be taken for the pool's own; choose another")
    return username


def name_key(username: str) -> str:
    """The same for all names that people would take for one another: 'Ada', 'ada', 'ada.' and 'аdа'."""
    folded = unicodedata.normalize("NFKC", username).casefold()
    latin = unicodedata.normalize("NFKC", folded).translate(_LOOK_ALIKES)
    plain = unicodedata.normalize("NFKC", latin)
    return plain.rstrip(_SEPARATORS) or plain


def check_password(password: str) -> str:
    """What bcrypt can take, and no shorter than this pool wants it."""
    if len(password) < MIN_PASSWORD_LENGTH:
        raise InvalidInputError(f"password must have at least {MIN_PASSWORD_LENGTH} characters")
    if len(password.encode()) > MAX_PASSWORD_BYTES:
        raise InvalidInputError(f"password must have at most {MAX_PASSWORD_BYTES} bytes")
    if "\0" in password:
        raise InvalidInputError("password must not contain NUL characters")
    return password


def check_new_password(password: str, username: str) -> str:
    """A password that somebody may choose for this name."""
    check_password(password)
    folded = password.casefold()
    if folded == username.casefold() or name_key(password) == name_key(username):
        raise InvalidInputError("password must not be the username")
    if folded in COMMON_PASSWORDS:
        raise InvalidInputError("this password is one of the first that anybody would try; choose another")
    if len(set(folded)) < MIN_DIFFERENT_CHARACTERS:
        raise InvalidInputError(
            f"password must have at least {MIN_DIFFERENT_CHARACTERS} different characters"
        )
    return password
