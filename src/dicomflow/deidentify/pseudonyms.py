"""What stands in the places of UIDs, patients and dates: HMACs of a site's secret, so that a study maps alike for ever.

Each is keyed by the recipient's name too (the domain), so that two recipients cannot join their sets, and has a label
of its own, so that none of them reveals another. Nothing is remembered.
"""

import base64
import hashlib
import hmac
import uuid
from functools import lru_cache
from typing import Final

from dicomflow.errors import PermanentError

__all__ = ["LEAST_SECRET_BYTES", "Pseudonyms"]

LEAST_SECRET_BYTES: Final = 32
_CACHED: Final = 65_536
_PSEUDONYM_BYTES: Final = 10  # 16 characters, as AE and SH may have


class Pseudonyms:
    """Maps UIDs, patients and dates for one recipient. Thread: any.

    Args:
        secret: the site's, of at least 32 bytes.
        domain: the recipient's name.

    Raises:
        PermanentError: the secret is too short, or there is no domain.
    """

    def __init__(self, secret: str, domain: str) -> None:
        key = secret.encode()
        if len(key) < LEAST_SECRET_BYTES:
            raise PermanentError(f"the site secret has {len(key)} bytes, and needs at least {LEAST_SECRET_BYTES}")
        if not domain:
            raise PermanentError("a recipient without a name has no pseudonyms of its own")
        self._key = hmac.new(key, digestmod=hashlib.sha256)
        self._domain = domain.encode()
        self.uid = lru_cache(_CACHED)(self._uid)

    @property
    def key_id(self) -> str:
        """A name of the secret that tells nothing of it: with another one, nothing maps as before."""
        return self._digest("key", b"").hex()[:16]

    def _uid(self, original: bytes) -> bytes:
        """Return the UID that stands for one, without padding: a UUID's, so that no root is needed (PS3.5 B.2)."""
        number = bytearray(self._digest("uid", original)[:16])
        number[6] = number[6] & 0x0F | 0x80  # version 8: made as its maker likes (RFC 9562 5.8)
        number[8] = number[8] & 0x3F | 0x80
        return b"2.25.%d" % int.from_bytes(number)

    def patient(self, key: bytes) -> str:
        """Return the pseudonym of a patient's key: 16 letters and digits."""
        return base64.b32encode(self._digest("patient", key)[:_PSEUDONYM_BYTES]).decode("ascii")

    def shift_days(self, key: bytes, most_days: int) -> int:
        """Return by how many whole days a patient's dates are moved into the past: 1 to `most_days`."""
        return 1 + int.from_bytes(self._digest("date", key)[:8]) % most_days

    def delivery(self, original: str) -> str:
        """Return the name by which a recipient knows a delivery: a UUID that tells no time."""
        number = bytearray(self._digest("delivery", original.encode())[:16])
        number[6], number[8] = number[6] & 0x0F | 0x80, number[8] & 0x3F | 0x80
        return str(uuid.UUID(bytes=bytes(number)))

    def _digest(self, label: str, message: bytes) -> bytes:
        """Return the HMAC-SHA-256 of label, domain and message, none of which can run into the next one."""
        mac = self._key.copy()
        for part in (label.encode(), self._domain, message):
            mac.update(len(part).to_bytes(4) + part)
        return mac.digest()
