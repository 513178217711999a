"""Secure aggregation: numbers whose sum alone can be read.

Knows integers, keys and random streams; nothing of models. Every two nodes agree on a secret
(X25519), which the coordinator does not learn. From it both draw the same stream of 64-bit
integers for every message; one adds it, the other takes it away, and in the sum over all nodes
nothing of the streams is left. Numbers are fixed-point integers modulo 2⁶⁴, so that the sum is
exact. After Bonawitz et al. 2017 (CCS), without their recovery of drop-outs: when a node goes
missing the rest begins anew with fresh streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from repair.errors import BadMessage, NotFinite

# One step of the fixed point; measured against a ridge of 0.1, its rounding is 1e-6 of a change.
STEP = 2.0**-28
# The sum of all nodes has to stay below this, or it would wrap around.
LARGEST = 2.0**62 * STEP
# With fewer, the sum of all is one node's own numbers.
FEWEST = 2


class Masks:
    """One node's keys and streams.

    Args:
        private: 32 bytes to go on with; None makes new ones.
        group: a secret that the institutions share and the coordinator does not have; with it
            a coordinator that hands out keys of its own learns nothing.
    """

    def __init__(self, private: bytes | None = None, group: bytes = b"") -> None:
        made = X25519PrivateKey.generate() if private is None else None
        self._key = made or X25519PrivateKey.from_private_bytes(private or b"")
        self._group = group

    @property
    def private(self) -> bytes:
        """To be kept by the node alone."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> str:
        """The public key, in hexadecimal."""
        return self._key.public_key().public_bytes_raw().hex()

    def hide(self, tensor: Tensor, roster: Mapping[str, str], label: str) -> Tensor:
        """``tensor`` in fixed point plus the streams of all pairs, int64 of the same shape.

        Args:
            roster: public key of every node of the sum by name, one's own among them.
            label: names this message; never the same for two.

        Raises:
            BadMessage: a roster of fewer than two, without this node, or with a broken key.
            NotFinite: NaN, infinity, or numbers too large for the fixed point.
        """
        keys = sorted(roster.values())
        if self.public not in keys or len(set(keys)) != len(keys) or len(keys) < FEWEST:
            raise BadMessage("The coordinator named no group that this node could hide in.")
        total = encode(tensor, len(keys))
        for other in keys:
            if other != self.public:
                stream = self._stream(other, label, tensor.numel()).reshape(tensor.shape)
                total = total + stream if other > self.public else total - stream
        return total

    def _stream(self, other: str, label: str, count: int) -> Tensor:
        """``count`` integers that the two nodes alone can draw."""
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other)))
        except (ValueError, InvalidKey) as error:
            raise BadMessage("The coordinator sent a key that is none.") from error
        # Both names enter in one order, so that both ends derive the same.
        pair = ":".join(sorted((self.public, other)))
        salt, info = self._group or None, f"repair federated {pair} {label}".encode()
        secret = HKDF(hashes.SHA256(), 32, salt=salt, info=info).derive(shared)
        cipher = Cipher(ChaCha20(secret, bytes(16)), mode=None).encryptor()
        return torch.frombuffer(bytearray(cipher.update(bytes(8 * count))), dtype=torch.int64)


def encode(tensor: Tensor, parties: int) -> Tensor:
    """Fixed point of numbers of which ``parties`` are going to be added; int64.

    Raises:
        NotFinite: NaN, infinity, or a number too large.
    """
    if not bool(torch.isfinite(tensor).all()) or float(tensor.abs().max()) > LARGEST / parties:
        raise NotFinite(
            "A statistic is too large to be hidden in fixed point.", "Go without --mask."
        )
    return (tensor.double() / STEP).round().to(torch.int64)


def reveal(hidden: Sequence[Tensor]) -> Tensor:
    """The sum of all nodes' numbers, fp64; it means nothing while one is missing."""
    return torch.stack(list(hidden)).sum(0).double() * STEP
