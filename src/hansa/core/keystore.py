"""A key store: named private keys in one sealed file, or in a sandbox one that needs no passphrase.

The file is JSON for the eye and hexadecimal for the secrets: sealed with XChaCha20-Poly1305 under
a key that Argon2id derives from the passphrase. A sandbox's store derives the key of any name from
one seed, so that a demo can play thousands of parties without storing them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct
from nacl import pwhash, secret
from nacl.exceptions import CryptoError

from hansa.core.errors import OperatorError
from hansa.core.hashing import tagged_hasher
from hansa.core.keys import SigningKey

KEYSTORE_VERSION: Final = 1
KDF: Final = "argon2id"
CIPHER: Final = "xchacha20-poly1305"
OPSLIMIT: Final = 3
MEMLIMIT: Final = 64 * 1024 * 1024

_derive = tagged_hasher("sandbox-key")


class SealedFile(Struct, forbid_unknown_fields=True, frozen=True):
    """A key store as it lies on disk."""

    version: int
    is_sandbox: bool
    kdf: str
    opslimit: int
    memlimit: int
    salt: str
    cipher: str
    sealed: str
    """Hexadecimal; in a sandbox the plain content."""


class _Content(Struct, forbid_unknown_fields=True, frozen=True):
    seed: str
    keys: dict[str, str]


class KeyStore:
    """Named signing keys. Shows names and public keys, never a secret."""

    def __init__(self, *, seed: bytes, keys: Mapping[str, bytes], is_sandbox: bool) -> None:
        self._seed = seed
        self._secrets = dict(keys)
        self._cache: dict[str, SigningKey] = {}
        self.is_sandbox = is_sandbox

    @property
    def names(self) -> list[str]:
        """Names stored, sorted."""
        return sorted(self._secrets)

    def get(self, name: str) -> SigningKey:
        """Return a key by name; a sandbox has one for every name.

        Raises: OperatorError if there is none.
        """
        key = self._cache.get(name)
        if key is None:
            key = self._cache[name] = SigningKey(self.get_secret(name))
        return key

    def get_secret(self, name: str) -> bytes:
        """Return the 32 private bytes of a name.

        Raises: OperatorError if there is none.
        """
        stored = self._secrets.get(name)
        if stored is not None:
            return stored
        if not self.is_sandbox:
            known = ", ".join(self.names) or "none"
            raise OperatorError(
                f"key: expected one of those in the key store ({known}), got {name!r}"
            )
        return _derive(self._seed + name.encode())

    def add(self, name: str, secret_bytes: bytes) -> None:
        """Add a key.

        Raises: OperatorError if the name is taken.
        """
        if name in self._secrets:
            raise OperatorError(f"key: expected a new name, got {name!r} which is taken")
        self._secrets[name] = secret_bytes

    def seal(self, passphrase: str | None, random: Callable[[int], bytes]) -> bytes:
        """Return the file's bytes; ``random`` gives that many random bytes.

        Raises: OperatorError where a passphrase is missing or too many.
        """
        if self.is_sandbox != (passphrase is None):
            raise OperatorError("passphrase: expected one, except in a sandbox, which has none")
        content = msgspec.json.encode(
            _Content(self._seed.hex(), {name: key.hex() for name, key in self._secrets.items()})
        )
        salt = random(pwhash.argon2id.SALTBYTES)
        sealed = content
        if passphrase is not None:
            box = secret.Aead(_stretch(passphrase, salt, OPSLIMIT, MEMLIMIT))
            sealed = bytes(box.encrypt(content, _header(salt), random(secret.Aead.NONCE_SIZE)))
        file = SealedFile(
            version=KEYSTORE_VERSION,
            is_sandbox=self.is_sandbox,
            kdf=KDF,
            opslimit=OPSLIMIT,
            memlimit=MEMLIMIT,
            salt=salt.hex(),
            cipher=CIPHER if passphrase is not None else "none",
            sealed=sealed.hex(),
        )
        return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"

    @classmethod
    def unseal(cls, data: bytes, passphrase: Callable[[], str]) -> "KeyStore":
        """Open a file's bytes; ``passphrase`` is asked only where it is needed.

        Raises: OperatorError for a file that is damaged, or a wrong passphrase.
        """
        try:
            file = msgspec.json.decode(data, type=SealedFile)
            _check_scheme(file)
            salt, content = bytes.fromhex(file.salt), bytes.fromhex(file.sealed)
            if not file.is_sandbox:
                key = _stretch(passphrase(), salt, file.opslimit, file.memlimit)
                content = secret.Aead(key).decrypt(content, _header(salt))
            inner = msgspec.json.decode(content, type=_Content)
            keys = {name: bytes.fromhex(key) for name, key in inner.keys.items()}
            return cls(seed=bytes.fromhex(inner.seed), keys=keys, is_sandbox=file.is_sandbox)
        except CryptoError:
            raise OperatorError("key store: expected its passphrase, got another") from None
        except (msgspec.DecodeError, ValueError) as error:
            # The cause is left out: it could quote the content.
            raise OperatorError(f"key store: not readable ({type(error).__name__})") from None

    def __repr__(self) -> str:
        return f"KeyStore({len(self._secrets)} keys, is_sandbox={self.is_sandbox})"


def _check_scheme(file: SealedFile) -> None:
    cipher = "none" if file.is_sandbox else CIPHER
    expected = (KEYSTORE_VERSION, KDF, cipher)
    given = (file.version, file.kdf, file.cipher)
    if given != expected:
        raise OperatorError(f"key store: expected {expected}, got {given}")


def _header(salt: bytes) -> bytes:
    # Binds version and salt to the sealed content.
    return f"hansa key store {KEYSTORE_VERSION} ".encode() + salt


def _stretch(passphrase: str, salt: bytes, opslimit: int, memlimit: int) -> bytes:
    size = secret.Aead.KEY_SIZE
    data = passphrase.encode()
    derived: Any = pwhash.argon2id.kdf(size, data, salt, opslimit=opslimit, memlimit=memlimit)
    return bytes(derived)
