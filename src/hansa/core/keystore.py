"""A key store: private keys in one sealed file, or in a sandbox one that needs no passphrase.

It holds keys by name and, where an organisation has a key tree, one node of it: then it answers for
every place at or below that node, by the place's name (``sales/orders/desk-3``).

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
from hansa.core.keytree import (
    Branch,
    EncryptionKey,
    KeyNode,
    Place,
    WrongPath,
    derive_encryption_key,
    parse_place,
)

KEYSTORE_VERSION: Final = 1
KDF: Final = "argon2id"
CIPHER: Final = "xchacha20-poly1305"
OPSLIMIT: Final = 3
MEMLIMIT: Final = 64 * 1024 * 1024
MAX_OPSLIMIT: Final = 64
MAX_MEMLIMIT: Final = 1024 * 1024 * 1024

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


class _Tree(Struct, forbid_unknown_fields=True, frozen=True):
    """One node of an organisation's key tree, sealed with the rest."""

    place: str
    network: int
    organisation: int
    node: str
    """As BIP-32 writes it."""


class _Content(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    seed: str
    keys: dict[str, str]
    tree: _Tree | None = None


class StoreLocked(OperatorError):
    """The key store has been locked, by hand or because nobody asked it for a while."""

    def __init__(self) -> None:
        super().__init__("key store: expected an open one, got a locked one; give its passphrase")


class KeyStore:
    """Signing and encryption keys by name. Shows names and public keys, never a secret.

    What it holds between uses lies in buffers that :meth:`lock` overwrites.
    """

    def __init__(
        self,
        *,
        seed: bytes,
        keys: Mapping[str, bytes],
        is_sandbox: bool,
        branch: Branch | None = None,
    ) -> None:
        self.is_sandbox = is_sandbox
        self.is_locked = False
        self._sealed: bytes | None = None
        """The file that has all of the content; None where something has changed since."""
        self._idle_ms: int | None = None
        self._clock_ms: Callable[[], int] = _no_clock
        self._used_ms = 0
        self._signing: dict[str, SigningKey] = {}
        self._encryption: dict[str, EncryptionKey] = {}
        self._fill(seed, keys, branch)

    def _fill(self, seed: bytes, keys: Mapping[str, bytes], branch: Branch | None) -> None:
        self._seed = bytearray(seed)
        self._secrets = {name: bytearray(key) for name, key in keys.items()}
        self._branch = branch

    @property
    def names(self) -> list[str]:
        """Names stored, sorted; those of a tree's places aren't among them."""
        return sorted(self._secrets)

    def holds(self, name: str) -> bool:
        """Say whether a name is stored, or a place that the key tree reaches.

        Raises: StoreLocked.
        """
        branch = self.branch
        if name in self._secrets:
            return True
        return branch is not None and _is_place(name) and branch.place.holds(parse_place(name))

    @property
    def branch(self) -> Branch | None:
        """The node of the key tree, if the store has one.

        Raises: StoreLocked.
        """
        self._use()
        return self._branch

    def get(self, name: str) -> SigningKey:
        """Return a signing key by name; a sandbox has one for every name.

        Raises: StoreLocked; OperatorError if there is none.
        """
        self._use()
        key = self._signing.get(name)
        if key is None:
            key = self._signing[name] = SigningKey(self.get_secret(name))
        return key

    def get_encryption_key(self, name: str) -> EncryptionKey:
        """Return the encryption key that belongs to a name.

        Raises: StoreLocked; OperatorError if there is none.
        """
        self._use()
        key = self._encryption.get(name)
        if key is None:
            key = self._encryption[name] = derive_encryption_key(self.get_secret(name))
        return key

    def get_secret(self, name: str) -> bytes:
        """Return the 32 private bytes of a name.

        Raises: StoreLocked; OperatorError if there is none.
        """
        self._use()
        stored = self._secrets.get(name)
        if stored is not None:
            if not stored:  # Another thread has locked the store since the line above.
                raise StoreLocked
            return bytes(stored)
        if self._branch is not None:
            return self._branch.find(self._read_place(self._branch, name)).secret
        if not self.is_sandbox:
            raise OperatorError(
                f"key: expected one of those in the key store ({self._known()}), got {name!r}"
            )
        return _derive(bytes(self._seed) + name.encode())

    def locate(self, name: str) -> Place | None:
        """Return the place in the key tree that a name stands for; None for a stored name.

        Raises: StoreLocked; WrongPath; NotBelow.
        """
        branch = self.branch
        if branch is None or name in self._secrets:
            return None
        place = self._read_place(branch, name)
        branch.check(place)
        return place

    def add(self, name: str, secret_bytes: bytes) -> None:
        """Add a key.

        Raises: StoreLocked; OperatorError if the name is taken, or is a place's.
        """
        self._use()
        if name in self._secrets:
            raise OperatorError(f"key: expected a new name, got {name!r} which is taken")
        if self._branch is not None and _is_place(name):
            raise OperatorError(f"key: expected a name, got {name!r} which is a place in the tree")
        self._secrets[name] = bytearray(secret_bytes)
        self._sealed = None

    def plant(self, branch: Branch) -> None:
        """Take a node of a key tree.

        Raises: StoreLocked; OperatorError for a sandbox, whose file is plain, for a store that has
        a tree, and where a stored name is a place's.
        """
        self._use()
        if self.is_sandbox:
            raise OperatorError(
                "key store: expected a sealed one for a key tree, got a sandbox's, whose file shows"
                " every key"
            )
        if self._branch is not None:
            raise OperatorError(
                f"key store: expected one without a key tree, got one with {self._branch.place} of"
                f" {self._branch.node.public.hex()}"
            )
        taken = [name for name in self.names if _is_place(name)]
        if taken:
            raise OperatorError(f"key store: expected no name that is a place, got {taken}")
        self._branch = branch
        self._sealed = None

    def lock_after(self, idle_ms: int, clock_ms: Callable[[], int]) -> None:
        """Lock the store once nobody has asked it for a key for that long.

        ``clock_ms`` counts milliseconds and never goes back. The store looks at it when it is
        asked; whoever wants the secrets gone on time calls :meth:`lock_if_idle` from a timer.
        Raises: OperatorError for a sandbox, which has no passphrase to come back with.
        """
        self._check_passphrase()
        self._idle_ms, self._clock_ms, self._used_ms = idle_ms, clock_ms, clock_ms()

    def lock_if_idle(self) -> bool:
        """Lock the store if its idle time is over; say whether it is locked.

        What isn't in any file yet keeps it open: locked, it would be lost.
        """
        is_idle = self._idle_ms is not None and self._clock_ms() - self._used_ms >= self._idle_ms
        if is_idle and not self.is_locked and self._sealed is not None:
            self.lock()
        return self.is_locked

    def lock(self) -> None:
        """Overwrite the secrets, and take them back from every key handed out.

        Raises: OperatorError for a sandbox, and where something isn't in any file yet: it would be
        lost.
        """
        self._check_passphrase()
        if self._sealed is None:
            raise OperatorError("key store: expected one sealed since its last change, got another")
        for held in (self._seed, *self._secrets.values()):
            held[:] = bytes(len(held))
            held.clear()
        for signing_key in self._signing.values():
            signing_key.forget()
        for encryption_key in self._encryption.values():
            encryption_key.forget()
        if self._branch is not None:
            self._branch.node.wipe()
        self._signing.clear()
        self._encryption.clear()
        self.is_locked = True

    def unlock(self, passphrase: str) -> None:
        """Open a locked store again.

        Raises: OperatorError for a wrong passphrase.
        """
        if not self.is_locked:
            return
        assert self._sealed is not None, "only a sealed store is ever locked"
        _, content = _open_file(self._sealed, lambda: passphrase)
        self._fill(*_read_content(content))
        self.is_locked, self._used_ms = False, self._clock_ms()

    def seal(self, passphrase: str | None, random: Callable[[int], bytes]) -> bytes:
        """Return the file's bytes; ``random`` gives that many random bytes.

        Raises: StoreLocked; OperatorError where a passphrase is missing or too many.
        """
        self._use()
        if self.is_sandbox != (passphrase is None):
            raise OperatorError("passphrase: expected one, except in a sandbox, which has none")
        content = msgspec.json.encode(self._write_content())
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
        self._sealed = msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"
        return self._sealed

    @classmethod
    def unseal(cls, data: bytes, passphrase: Callable[[], str]) -> "KeyStore":
        """Open a file's bytes; ``passphrase`` is asked only where it is needed.

        Raises: OperatorError for a file that is damaged, or a wrong passphrase.
        """
        is_sandbox, content = _open_file(data, passphrase)
        seed, keys, branch = _read_content(content)
        store = cls(seed=seed, keys=keys, is_sandbox=is_sandbox, branch=branch)
        store._sealed = data
        return store

    def _check_passphrase(self) -> None:
        if self.is_sandbox:
            raise OperatorError("key store: expected one with a passphrase, got a sandbox's")

    def _use(self) -> None:
        if self.lock_if_idle():
            raise StoreLocked
        self._used_ms = self._clock_ms()

    def _read_place(self, branch: Branch, name: str) -> Place:
        try:
            return parse_place(name)
        except WrongPath as error:
            raise WrongPath(
                f"key: expected one of those in the key store ({self._known()}) or a place at or"
                f" below {branch.place}; {error}"
            ) from None

    def _known(self) -> str:
        return ", ".join(self.names) or "none"

    def _write_content(self) -> _Content:
        branch, tree = self._branch, None
        if branch is not None:
            tree = _Tree(
                place=str(branch.place),
                network=branch.network,
                organisation=branch.organisation,
                node=branch.node.to_extended_key(),
            )
        keys = {name: key.hex() for name, key in self._secrets.items()}
        return _Content(seed=self._seed.hex(), keys=keys, tree=tree)

    def __repr__(self) -> str:
        tree = f", tree={self._branch!r}" if self._branch is not None else ""
        return f"KeyStore({len(self._secrets)} keys, is_sandbox={self.is_sandbox}{tree})"


def _no_clock() -> int:
    """Stand for the clock of a store that is never idle."""
    return 0


def _is_place(name: str) -> bool:
    try:
        parse_place(name)
    except WrongPath:
        return False
    return True


def _open_file(data: bytes, passphrase: Callable[[], str]) -> tuple[bool, bytes]:
    """Return whether a file is a sandbox's, and its content."""
    try:
        file = msgspec.json.decode(data, type=SealedFile)
        _check_scheme(file)
        salt, content = bytes.fromhex(file.salt), bytes.fromhex(file.sealed)
        if not file.is_sandbox:
            key = _stretch(passphrase(), salt, file.opslimit, file.memlimit)
            content = secret.Aead(key).decrypt(content, _header(salt))
    except CryptoError:
        raise OperatorError("key store: expected its passphrase, got another") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise _unreadable(error) from None
    return file.is_sandbox, content


def _read_content(content: bytes) -> tuple[bytes, dict[str, bytes], Branch | None]:
    try:
        inner = msgspec.json.decode(content, type=_Content)
        keys = {name: bytes.fromhex(key) for name, key in inner.keys.items()}
        seed = bytes.fromhex(inner.seed)
    except (msgspec.DecodeError, ValueError) as error:
        raise _unreadable(error) from None
    return seed, keys, _read_tree(inner.tree) if inner.tree is not None else None


def _unreadable(error: Exception) -> OperatorError:
    # The cause is left out: it could quote the content.
    return OperatorError(f"key store: not readable ({type(error).__name__})")


def _read_tree(tree: _Tree) -> Branch:
    return Branch(
        KeyNode.from_extended_key(tree.node),
        parse_place(tree.place),
        network=tree.network,
        organisation=tree.organisation,
    )


def _check_scheme(file: SealedFile) -> None:
    cipher = "none" if file.is_sandbox else CIPHER
    expected = (KEYSTORE_VERSION, KDF, cipher)
    given = (file.version, file.kdf, file.cipher)
    if given != expected:
        raise OperatorError(f"key store: expected {expected}, got {given}")
    # Whoever can write the file must not make its owner's machine run out of memory or time.
    if file.opslimit > MAX_OPSLIMIT or file.memlimit > MAX_MEMLIMIT:
        raise OperatorError(
            f"key store: expected at most {MAX_OPSLIMIT} passes over {MAX_MEMLIMIT} bytes, got"
            f" {file.opslimit} over {file.memlimit}"
        )


def _header(salt: bytes) -> bytes:
    # Binds version and salt to the sealed content.
    return f"hansa key store {KEYSTORE_VERSION} ".encode() + salt


def _stretch(passphrase: str, salt: bytes, opslimit: int, memlimit: int) -> bytes:
    size = secret.Aead.KEY_SIZE
    data = passphrase.encode()
    derived: Any = pwhash.argon2id.kdf(size, data, salt, opslimit=opslimit, memlimit=memlimit)
    return bytes(derived)
