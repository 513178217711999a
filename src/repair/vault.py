"""The secret key of one home: keyed hashes and sealed text. Knows nothing about edits.

Whoever has the key can test a guess against a hash and read what was sealed; without it
the ledger's bytes say nothing about either.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import hmac
import os
import secrets
import tempfile
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from repair.errors import DiskFull, EnvironmentProblem, LedgerCorrupted

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEY_BYTES = 32
HASH_CHARACTERS = 12
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def storage_problem(home: Path, error: OSError) -> EnvironmentProblem:
    """What a failed file operation under ``home`` means to the user."""
    if error.errno in _NO_SPACE:
        return DiskFull(
            f"The folder {home} could not be written because the disk is full.",
            "Free some space and try again; what was stored before is still there.",
        )
    reason = (error.strerror or str(error)).lower()
    return EnvironmentProblem(
        f"The folder {home} cannot be used: {reason}.",
        "Check its permissions, or choose another folder with --home.",
    )


def sync_directory(folder: Path) -> None:
    """Make a new name in ``folder`` survive a power cut, where the system can.

    Raises:
        OSError: the folder cannot be opened or synchronised.
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Vault:
    """Hashes and seals text under the random key in ``home/key``.

    Args:
        home: the folder of the state; made when it is missing.
        create: make a key where there is none; otherwise a missing key is an error.

    Raises:
        LedgerCorrupted: the key is missing (with ``create`` off) or is not a key.
        EnvironmentProblem, DiskFull: the folder cannot be read or written.
    """

    def __init__(self, home: Path, *, create: bool = True) -> None:
        self.home = home
        path = home / "key"
        try:
            if create and not path.exists():
                _create_key(path)
            self._key = path.read_bytes()
        except FileNotFoundError:
            raise LedgerCorrupted(
                f"The ledger's key {path} is missing.",
                f"Restore it from a backup, or move {home} away to begin anew; "
                "edits can still be listed and undone without it.",
            ) from None
        except OSError as error:
            raise storage_problem(home, error) from error
        if len(self._key) != KEY_BYTES:
            raise LedgerCorrupted(
                f"The ledger's key {path} is damaged.", "Restore the file from a backup."
            )

    @property
    def fingerprint(self) -> str:
        """Sixty-four hexadecimal digits that tell this key from another, and no more."""
        return self._hash("fingerprint", "")

    def tag(self, text: str) -> str:
        """A keyed hash of ``text``, twelve hexadecimal digits, blind to case and spacing."""
        plain = " ".join(unicodedata.normalize("NFC", text).casefold().split())
        return self._hash("tag", plain)[:HASH_CHARACTERS]

    def words(self, tokens: Sequence[str]) -> tuple[str, ...]:
        """A keyed hash of each token, in order: equal tokens give equal hashes."""
        return tuple(self._hash("word", token)[:HASH_CHARACTERS] for token in tokens)

    def seal(self, text: str) -> bytes:
        """Encrypt ``text``; each call gives other bytes."""
        return self._fernet.encrypt(text.encode("utf-8", "surrogatepass"))

    def open(self, sealed: bytes) -> str:
        """Decrypt what `seal` gave.

        Raises:
            LedgerCorrupted: the bytes were changed, or were sealed under another key.
        """
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed).decode("utf-8", "surrogatepass")
        except InvalidToken:
            raise LedgerCorrupted(
                f"A sealed text does not open with the key in {self.home}.",
                "Restore key and ledger.db from the same backup.",
            ) from None

    def _hash(self, purpose: str, text: str) -> str:
        message = purpose.encode() + b"\0" + text.encode("utf-8", "surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()

    @cached_property
    def _fernet(self) -> Fernet:
        from cryptography.fernet import Fernet
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derived = HKDF(SHA256(), length=32, salt=None, info=b"repair seal").derive(self._key)
        return Fernet(base64.urlsafe_b64encode(derived))


def _create_key(path: Path) -> None:
    """Put a whole new key at ``path``, or leave the one that another process just put there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A link appears complete or not at all and never replaces, so that a kill or a race
    # leaves neither half a key nor two of them. mkstemp gives mode 0600.
    descriptor, name = tempfile.mkstemp(prefix="key.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
    sync_directory(path.parent)
