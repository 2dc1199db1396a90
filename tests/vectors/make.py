#!/usr/bin/env python3
"""Makes the test vectors beside this file.

Everything here follows PROTOCOL.md and what it refers to (RFC 6962, RFC 8032,
RFC 9162, C2SP signed-note, tlog-checkpoint, tlog-tiles, tlog-proof,
tlog-cosignature, tlog-policy, tlog-witness, EIP-712, EIP-1014), never the Rust code: two
implementations that agree only because one was copied from the other prove
nothing. Deterministic: the same files each time.

    pip install -r requirements.txt
    python3 make.py           write the files
    python3 make.py --check   fail where a file differs

Section numbers in comments are PROTOCOL.md's.
"""

import base64
import datetime
import functools
import hashlib
import json
import re
import sys
import uuid
from pathlib import Path

from cryptography.hazmat.primitives import hashes as digests
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = Path(__file__).resolve().parent
FILES = {}


def vectors(make):
    """Registers `make` as the maker of `<its name>.json`."""
    FILES[f"{make.__name__}.json"] = make
    return make


# --- 2 Hashes, commitments and key ids ---------------------------------------


def sha256(data):
    return hashlib.sha256(data).digest()


def commit(domain, *parts):
    framed = b"".join(len(p).to_bytes(4, "big") + p for p in parts)
    return sha256(domain.encode() + b"\0" + framed)


def key_id(origin, scheme, credential):
    return commit("tallystick/key/v1", origin.encode(), scheme.encode(), credential)


def receipt_commitment(receipt_id):
    return commit("tallystick/receipt-id/v1", uuid.UUID(receipt_id).bytes)


def response_commitment(provider, response_id):
    return commit("tallystick/response-id/v1", provider.encode(), response_id.encode())


def credential_of(provider, headers, query):
    """The credential among `headers` and in `query`, or None."""
    sent = {name.lower(): value for name, value in headers}
    order = {
        "anthropic": ["x-api-key", "authorization"],
        "gemini": ["x-goog-api-key", "authorization"],
    }.get(provider, ["authorization", "x-api-key", "api-key"])
    for name in order:
        if name not in sent:
            continue
        value = sent[name]
        if name == "authorization":
            word, _, rest = value.partition(" ")
            if word.lower() != "bearer":
                continue
            value = rest.lstrip(" ")
        return value.encode("latin-1")
    if provider == "anthropic":
        return None
    if provider != "gemini":
        mark = "openai-insecure-api-key."
        offered = [one.strip() for one in sent.get("sec-websocket-protocol", "").split(",")]
        keys = [one[len(mark):] for one in offered if one.startswith(mark)]
        if len(keys) == 1:
            return keys[0].encode()
    name = "key=" if provider == "gemini" else "api-key="
    keys = [pair[len(name):] for pair in query.split("&") if pair.startswith(name)]
    return keys[0].encode() if keys else None


def link_token(text):
    """The 32 bytes of a link token."""
    assert len(text) == 43
    return base64.urlsafe_b64decode(text + "=")


def identity(origin, provider, headers, path="", query="", unchecked=False):
    segments = path.split("/")
    linked = [after for before, after in zip(segments, segments[1:]) if before == "t"]
    linked += [value for name, value in headers if name.lower() == "x-tally-link"]
    if linked:
        return key_id(origin, "link", link_token(linked[0]))
    credential = credential_of(provider, headers, query)
    if credential is None or provider == "ollama" or unchecked:
        return None
    if len(credential) < 20 or len(set(credential)) < 8:
        return None
    return key_id(origin, provider, credential)


def drawn(label, count=32):
    """`count` bytes that look random and are the same each time."""
    return b"".join(sha256(f"{label}/{i}".encode()) for i in range(count // 32 + 1))[:count]


def receipt_id(label):
    """A UUID of version 7 (RFC 9562)."""
    raw = bytearray(drawn(label, 16))
    raw[6] = raw[6] & 0x0F | 0x70
    raw[8] = raw[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(raw)))


# --- 3 Keys and origin -------------------------------------------------------
# Ed25519 by hand where a signature or key must be what no signer makes.

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


def square_root(value):
    """A root of `value` mod P, or None."""
    root = pow(value, (P + 3) // 8, P)
    if root * root % P != value % P:
        root = root * ROOT_OF_MINUS_ONE % P
    return root if root * root % P == value % P else None


def x_of(y, sign):
    """The x with `sign` of the point at `y`, or None."""
    x = square_root((y * y - 1) * pow(D * y * y + 1, P - 2, P) % P)
    if x is None or (x == 0 and sign):
        return None
    return x if x & 1 == sign else P - x


NEUTRAL = (0, 1)
BASE = (x_of(4 * pow(5, P - 2, P) % P, 0), 4 * pow(5, P - 2, P) % P)


def add(a, b):
    (ax, ay), (bx, by) = a, b
    k = D * ax * bx * ay * by % P
    return (
        (ax * by + bx * ay) * pow(1 + k, P - 2, P) % P,
        (ay * by + ax * bx) * pow(1 - k, P - 2, P) % P,
    )


def times(n, point):
    total = NEUTRAL
    while n:
        if n & 1:
            total = add(total, point)
        point = add(point, point)
        n >>= 1
    return total


def pack(point):
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def raw_key(y, sign):
    """An encoding with any y below 2^255, canonical or not."""
    return (y | sign << 255).to_bytes(32, "little")


def torsion():
    """The eight points whose order divides 8, neutral first, generator second."""
    y = 2
    while True:
        x = x_of(y, 0)
        if x is not None:
            point = times(L, (x, y))
            if times(4, point) != NEUTRAL:
                return [times(i, point) for i in range(8)]
        y += 1


TORSION = torsion()


class Key:
    """A log's key: name, seed, public key, and the secret scalar (RFC 8032 section 5.1.5)."""

    def __init__(self, origin, seed):
        self.origin, self.seed = origin, seed
        self.secret = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self.secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        clamped = bytearray(hashlib.sha512(seed).digest()[:32])
        clamped[0] &= 248
        clamped[31] = clamped[31] & 127 | 64
        self.scalar = int.from_bytes(clamped, "little")
        self.vkey = vkey(origin, self.public)

    def sign(self, message):
        return self.secret.sign(message)

    def challenge(self, r, message):
        digest = hashlib.sha512(r + self.public + message).digest()
        return int.from_bytes(digest, "little") % L

    def forge(self, r, nonce, message):
        """The signature with these bytes as R whose S fits the point nonce * B."""
        s = (nonce + self.challenge(r, message) * self.scalar) % L
        return r + s.to_bytes(32, "little")


def key_hash(origin, public):
    return sha256(origin.encode() + b"\n\x01" + public)[:4]


def b64(data):
    return base64.b64encode(data).decode()


def vkey(origin, public, kind=1, hashed=None):
    hashed = key_hash(origin, public).hex() if hashed is None else hashed
    return f"{origin}+{hashed}+{b64(bytes([kind]) + public)}"


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def stray_bit(text):
    """The same bytes in base64, but with a pad bit set (RFC 4648 section 3.5 forbids it)."""
    body = text.rstrip("=")
    assert len(body) != len(text), "no pad bits"
    return body[:-1] + ALPHABET[ALPHABET.index(body[-1]) | 1] + text[len(body) :]


# --- 5 Tree and tiles --------------------------------------------------------


def leaf_hash(entry):
    return sha256(b"\0" + entry)


def node(left, right):
    return sha256(b"\1" + left + right)


def tree_head(leaves):
    """RFC 6962 section 2.1."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    if isinstance(leaves, Wide) and len(leaves).bit_count() == 1:
        return wide_perfect(len(leaves).bit_length() - 1, leaves.start % 67)
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node(tree_head(leaves[:split]), tree_head(leaves[split:]))


def audit_path(index, leaves):
    """RFC 9162 section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return audit_path(index, leaves[:split]) + [tree_head(leaves[split:])]
    return audit_path(index - split, leaves[split:]) + [tree_head(leaves[:split])]


def consistency_proof(size, leaves, whole=True):
    """RFC 9162 section 2.1.4.1: from `size` to all of the leaves."""
    if size == len(leaves):
        return [] if whole else [tree_head(leaves)]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if size <= split:
        return consistency_proof(size, leaves[:split], whole) + [tree_head(leaves[split:])]
    return consistency_proof(size - split, leaves[split:], False) + [tree_head(leaves[:split])]


class Wide:
    """Leaves `start` to `end` of a tree too wide to be written down, in which leaf i is
    the leaf hash of i mod 67 as 4 bytes big-endian: its perfect subtrees repeat."""

    def __init__(self, start, end):
        self.start, self.end = start, end

    def __len__(self):
        return self.end - self.start

    def __getitem__(self, part):
        if isinstance(part, slice):
            start, end, _ = part.indices(len(self))
            return Wide(self.start + start, self.start + end)
        return wide_perfect(0, (self.start + part) % 67)


@functools.cache
def wide_perfect(height, first):
    if height == 0:
        return leaf_hash(first.to_bytes(4, "big"))
    half = 1 << height - 1
    return node(wide_perfect(height - 1, first), wide_perfect(height - 1, (first + half) % 67))


def tile_path(kind, n, width):
    groups = [f"{n % 1000:03}"]
    while n := n // 1000:
        groups.insert(0, f"x{n % 1000:03}")
    path = f"tile/{kind}/{'/'.join(groups)}"
    return path if width == 256 else f"{path}.p/{width}"


def chunks(items):
    return [items[i : i + 256] for i in range(0, len(items), 256)]


def bundle(entries):
    return b"".join(len(e).to_bytes(2, "big") + e for e in entries)


def hash_tiles(leaves):
    """(path, bytes) of every hash tile of the tree over `leaves`."""
    level, items = 0, leaves
    while items:
        for n, tile in enumerate(chunks(items)):
            yield tile_path(level, n, len(tile)), b"".join(tile)
        items = [tree_head(t) for t in chunks(items) if len(t) == 256]
        level += 1


# --- 6, 7 Notes --------------------------------------------------------------


def signature_line(name, hashed, signature):
    return f"\u2014 {name} {b64(hashed + signature)}\n"


def seal(text, key):
    hashed = key_hash(key.origin, key.public)
    return f"{text}\n" + signature_line(key.origin, hashed, key.sign(text.encode()))


def checkpoint_text(origin, size, root):
    return f"{origin}\n{size}\n{b64(root)}\n"


def receipt_text(origin, index, leaf):
    return f"tallystick/receipt/v1\n{origin}\n{index}\n{b64(leaf)}\n"


# --- 6.1, 6.3, 7.1 Cosignatures, witnesses, offline proofs -------------------


def cosigner_hash(name, public):
    return sha256(name.encode() + b"\n\x04" + public)[:4]


def cosigner_vkey(key):
    return vkey(key.origin, key.public, kind=4, hashed=cosigner_hash(key.origin, key.public).hex())


def cosigned_message(text, time):
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def cosignature(text, key, time, signature=None):
    """The line; with another signature than the right one if it is given."""
    signature = key.sign(cosigned_message(text, time)) if signature is None else signature
    blob_ = time.to_bytes(8, "big") + signature
    return signature_line(key.origin, cosigner_hash(key.origin, key.public), blob_)


def hash_lines(hashes_):
    return "".join(f"{b64(h)}\n" for h in hashes_)


def tlog_proof(index, path, checkpoint, extra=None):
    line = "" if extra is None else f"extra {b64(extra)}\n"
    return f"c2sp.org/tlog-proof@v1\n{line}index {index}\n{hash_lines(path)}\n{checkpoint}"


def add_checkpoint(old, proof, checkpoint):
    return f"old {old}\n{hash_lines(proof)}\n{checkpoint}"


# --- 13 Anchors --------------------------------------------------------------

ROTATIONS = [
    [0, 36, 3, 41, 18], [1, 44, 10, 45, 2], [62, 6, 43, 15, 61], [28, 55, 25, 21, 56], [27, 20, 39, 8, 14]
]


def rotated(value, by):
    return (value << by | value >> 64 - by) & (1 << 64) - 1


def round_constants():
    """FIPS 202 section 3.2.5."""
    register = 1
    for _ in range(24):
        constant = 0
        for j in range(7):
            if register & 1:
                constant |= 1 << (1 << j) - 1
            register = register << 1 ^ (0x171 if register & 0x80 else 0)
        yield constant


def permuted(a):
    """Keccak-f[1600] (FIPS 202 section 3.3); lane (x, y) is a[x][y]."""
    for constant in round_constants():
        c = [a[x][0] ^ a[x][1] ^ a[x][2] ^ a[x][3] ^ a[x][4] for x in range(5)]
        d = [c[x - 1] ^ rotated(c[(x + 1) % 5], 1) for x in range(5)]
        b = [[0] * 5 for _ in range(5)]
        for x in range(5):
            for y in range(5):
                b[y][(2 * x + 3 * y) % 5] = rotated(a[x][y] ^ d[x], ROTATIONS[x][y])
        a = [[b[x][y] ^ (~b[(x + 1) % 5][y] & b[(x + 2) % 5][y]) for y in range(5)] for x in range(5)]
        a[0][0] ^= constant
    return a


def keccak(*parts):
    """Keccak-256 with the padding that came before SHA-3's."""
    data = b"".join(parts)
    pad = 136 - len(data) % 136
    data += b"\x81" if pad == 1 else b"\x01" + bytes(pad - 2) + b"\x80"
    lanes = [[0] * 5 for _ in range(5)]
    for block in range(0, len(data), 136):
        for i in range(17):
            lanes[i % 5][i // 5] ^= int.from_bytes(data[block + 8 * i : block + 8 * i + 8], "little")
        lanes = permuted(lanes)
    return b"".join(lanes[i][0].to_bytes(8, "little") for i in range(4))


assert keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class EvmKey:
    """A secp256k1 key and its address."""

    def __init__(self, seed):
        self.secret = ec.derive_private_key(int.from_bytes(seed, "big"), ec.SECP256K1())
        point = self.secret.public_key().public_numbers()
        self.address = "0x" + keccak(word(point.x), word(point.y))[12:].hex()

    def sign(self, digest):
        """r, s and v: the nonce by RFC 6979 with SHA-256, the lower s, v by trying both."""
        scheme = ec.ECDSA(utils.Prehashed(digests.SHA256()), deterministic_signing=True)
        r, s = utils.decode_dss_signature(self.secret.sign(digest, scheme))
        s = min(s, ORDER - s)
        [v] = [v for v in (27, 28) if recovered(digest, r, s, v) == self.address]
        return word(r) + word(s) + bytes([v])


FIELD = 2**256 - 2**32 - 977
GENERATOR = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def added(a, b):
    """The sum of two points of secp256k1; None is the neutral one."""
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % FIELD == 0:
        return None
    if a == b:
        slope = 3 * a[0] ** 2 * pow(2 * a[1], -1, FIELD)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, FIELD)
    x = (slope**2 - a[0] - b[0]) % FIELD
    return x, (slope * (a[0] - x) - a[1]) % FIELD


def multiplied(n, point):
    total = None
    while n:
        if n & 1:
            total = added(total, point)
        point = added(point, point)
        n >>= 1
    return total


def recovered(digest, r, s, v):
    """The address whose signature it is (SEC 1 section 4.1.6)."""
    y = pow(r**3 + 7, (FIELD + 1) // 4, FIELD)
    if y & 1 != v - 27:
        y = FIELD - y
    inverse = pow(r, -1, ORDER)
    message = int.from_bytes(digest, "big")
    point = added(multiplied(s * inverse % ORDER, (r, y)), multiplied(-message * inverse % ORDER, GENERATOR))
    return "0x" + keccak(word(point[0]), word(point[1]))[12:].hex()


def word(value):
    """A number in 32 bytes."""
    return value.to_bytes(32, "big")


def address_word(address):
    return bytes(12) + bytes.fromhex(address[2:])


def identity_of(key):
    return commit("tallystick/log/v1", key.origin.encode(), key.public)


def domain_separator(key):
    kind = keccak(b"EIP712Domain(string name,string version,bytes32 salt)")
    return keccak(kind, keccak(b"Tallystick"), keccak(b"1"), identity_of(key))


def typed(key, *words):
    return keccak(b"\x19\x01", domain_separator(key), keccak(*words))


def checkpoint_digest(key, size, root, time):
    kind = keccak(b"Checkpoint(uint64 size,bytes32 root,uint64 time)")
    return typed(key, kind, word(size), root, word(time))


def retirement_digest(key, successor):
    kind = keccak(b"Retirement(string origin,bytes32 logKey,address evmKey)")
    if successor is None:
        return typed(key, kind, keccak(b""), bytes(32), bytes(32))
    following, evm = successor
    return typed(key, kind, keccak(following.origin.encode()), following.public, address_word(evm.address))


def init_code(key, evm):
    code = bytes.fromhex((HERE / "../../anchor/contract/creation.hex").read_text())
    name = key.origin.encode()
    padded = name + bytes(-len(name) % 32)
    return code + word(96) + key.public + address_word(evm.address) + word(len(name)) + padded


DEPLOYER = bytes.fromhex("4e59b44847b379578588920ca78fbf26c0b4956c")


def contract_address(key, evm):
    return "0x" + keccak(b"\xff", DEPLOYER, bytes(32), keccak(init_code(key, evm)))[12:].hex()


# --- 4 Entries ---------------------------------------------------------------


def entry(kind, time, version=1, **fields):
    head = {"v": version, "kind": kind, "time": time}
    present = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(head | present, separators=(",", ":")).encode()


USAGE_FIELDS = (
    "receipt key_id wallet link source provider model input cache_read cache_write output reasoning "
    "outcome flag response"
).split()


def usage(time, **fields):
    assert set(fields) <= set(USAGE_FIELDS)
    return entry("usage", time, **{name: fields.get(name) for name in USAGE_FIELDS})


def log_entry(time, key, **changed):
    fields = {
        "origin": key.origin,
        "vkey": key.vkey,
        "rules": 1,
        "totals_interval": 600,
        "publish_max": 10,
        "evm_key": "0x" + drawn("evm", 20).hex(),
    }
    return entry("log", time, **(fields | changed))


def filled(length):
    """An entry of an unknown kind, that many bytes long."""
    return entry("k", 7, x="y" * (length - len(entry("k", 7, x=""))))


def blob(name, data):
    """`data` under `name` as text where it is printable; under `<name>_hex`; or,
    where it is long, under `<name>_runs` as pairs of hex and how often it repeats."""
    if len(data) > 16_384:
        runs = re.finditer(rb"(.)\1{63,}|((?!(.)\3{63,}).)+", data, re.DOTALL)
        return {f"{name}_runs": [[r[1].hex(), len(r[0])] if r[1] else [r[0].hex(), 1] for r in runs]}
    if all(0x20 <= byte <= 0x7E for byte in data):
        return {name: data.decode()}
    return {f"{name}_hex": data.hex()}


# --- 4.3 Bindings ------------------------------------------------------------
# keccak-256 and secp256k1 by hand: the library has neither of them as needed.

ROTATIONS = [
    [0, 36, 3, 41, 18], [1, 44, 10, 45, 2], [62, 6, 43, 15, 61], [28, 55, 25, 21, 56], [27, 20, 39, 8, 14],
]


def rotated(value, by):
    return (value << by | value >> 64 - by) & 2**64 - 1


def round_constants():
    register = 1
    for _ in range(24):
        constant = 0
        for j in range(7):
            constant |= (register & 1) << (1 << j) - 1
            register = register << 1 ^ (register >> 7) * 0x171
        yield constant


def keccak_f(a):
    """Keccak-f[1600] over lanes a[x][y] (FIPS 202 section 3.3)."""
    for constant in round_constants():
        c = [a[x][0] ^ a[x][1] ^ a[x][2] ^ a[x][3] ^ a[x][4] for x in range(5)]
        d = [c[x - 1] ^ rotated(c[(x + 1) % 5], 1) for x in range(5)]
        a = [[a[x][y] ^ d[x] for y in range(5)] for x in range(5)]
        b = [[0] * 5 for _ in range(5)]
        for x in range(5):
            for y in range(5):
                b[y][(2 * x + 3 * y) % 5] = rotated(a[x][y], ROTATIONS[x][y])
        a = [[b[x][y] ^ ~b[(x + 1) % 5][y] & b[(x + 2) % 5][y] for y in range(5)] for x in range(5)]
        a[0][0] ^= constant
    return a


def keccak256(data):
    """Keccak as Ethereum uses it: padded as before FIPS 202."""
    rate = 136
    padded = bytearray(data + b"\1" + bytes(-(len(data) + 1) % rate))
    padded[-1] |= 0x80
    a = [[0] * 5 for _ in range(5)]
    for start in range(0, len(padded), rate):
        for i in range(rate // 8):
            a[i % 5][i // 5] ^= int.from_bytes(padded[start + 8 * i : start + 8 * i + 8], "little")
        a = keccak_f(a)
    return b"".join(a[i % 5][i // 5].to_bytes(8, "little") for i in range(4))


assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"

FIELD = 2**256 - 2**32 - 977
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
GENERATOR = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def ec_add(a, b):
    """The sum of two points of secp256k1; None is the neutral one."""
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % FIELD == 0:
        return None
    if a == b:
        slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, FIELD) % FIELD
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, FIELD) % FIELD
    x = (slope * slope - a[0] - b[0]) % FIELD
    return x, (slope * (a[0] - x) - a[1]) % FIELD


def ec_times(n, point):
    total = None
    while n:
        if n & 1:
            total = ec_add(total, point)
        point = ec_add(point, point)
        n >>= 1
    return total


class Account:
    """An account with a key: its address, and what it signs."""

    def __init__(self, label):
        self.secret = int.from_bytes(drawn(label), "big") % ORDER
        x, y = ec_times(self.secret, GENERATOR)
        self.address = "0x" + keccak256(x.to_bytes(32, "big") + y.to_bytes(32, "big"))[12:].hex()

    def sign(self, digest):
        """r, s, v with a low s (SEC 1 section 4.1.3); the nonce is drawn from what is signed."""
        nonce = int.from_bytes(drawn(f"nonce/{self.secret}/{digest.hex()}"), "big") % ORDER
        point = ec_times(nonce, GENERATOR)
        r = point[0] % ORDER
        s = pow(nonce, -1, ORDER) * (int.from_bytes(digest, "big") + r * self.secret) % ORDER
        odd = point[1] & 1
        if s > ORDER // 2:
            s, odd = ORDER - s, 1 - odd
        return rsv(r, s, 27 + odd)


def rsv(r, s, v):
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])


def checksummed(address):
    """EIP-55."""
    digits = address[2:]
    hashed = keccak256(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(h, 16) >= 8 else d for d, h in zip(digits, hashed))


assert checksummed("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed") == "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"

PUBLISHES = (
    "the time, provider, model and token counts of every call made with this key. What is published stays "
    "public for ever. Prompts, answers, credentials and network addresses are not stored."
)
STATEMENTS = {
    "link": "I bind the key named below to this wallet in the log named below. From then on, and until I "
    f"release it, the log publishes under this wallet {PUBLISHES}",
    "release": "I release the key named below in the log named below: calls made with it count for this wallet "
    "no more. What was published under this wallet stays public for ever.",
    "give": "I give the key named below to the wallet named below in the log named below: calls made with it "
    "count for my wallet no more. What was published under my wallet stays public for ever.",
    "take": "I take the key named below over from the wallet named below in the log named below. From then on, "
    f"and until I release it, the log publishes under my wallet {PUBLISHES}",
}


def utc(secs):
    at = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=secs)
    return at.isoformat(timespec="seconds") + "Z"


def messages(origin, fields):
    """The texts that a binding's wallets sign, the sender's first (section 4.3)."""
    if fields["action"] == "burn":
        return []
    moved = fields["action"] == "move"

    def text(role, signer, *more):
        lines = [
            f"{origin.split('/')[0]} wants you to sign in with your Ethereum account:",
            checksummed(signer),
            "",
            STATEMENTS[role],
            "",
            f"URI: https://{origin}",
            "Version: 1",
            f"Chain ID: {fields['chain_id']}",
            f"Nonce: {fields['previous']}",
            f"Issued At: {utc(fields['issued_at'])}",
            f"Expiration Time: {utc(fields['expires_at'])}",
            "Resources:",
            f"- tallystick:log:{origin}",
            f"- tallystick:key:{fields['key_id']}",
        ]
        return "\n".join([*lines, *more])

    own = text("give", fields["wallet"], f"- tallystick:to:{checksummed(fields['to'])}") if moved else None
    if moved:
        return [own, text("take", fields["to"], f"- tallystick:from:{checksummed(fields['wallet'])}")]
    return [text(fields["action"], fields["wallet"])]


def personal(text):
    """EIP-191, version 0x45."""
    return keccak256(f"\x19Ethereum Signed Message:\n{len(text)}{text}".encode())


BINDING_FIELDS = (
    "action key_id previous wallet to chain_id issued_at expires_at scheme block block_hash signature "
    "to_scheme to_block to_block_hash to_signature"
).split()


def binding(time, origin, **given):
    """A binding entry; `wallet` and `to` may be accounts, which then sign what is not signed."""
    fields = {"action": "link", "chain_id": 1, "issued_at": time - 5, "expires_at": time + 3_600} | given
    if fields["action"] == "burn":
        fields = {name: fields[name] for name in ("action", "key_id", "previous")}
    signers = [(name, fields[name]) for name in ("wallet", "to") if isinstance(fields.get(name), Account)]
    fields |= {name: account.address for name, account in signers}
    for name, account in signers:
        text = messages(origin, fields)[0 if name == "wallet" else 1]
        prefix = "" if name == "wallet" else "to_"
        signed = {f"{prefix}scheme": "eip191", f"{prefix}signature": "0x" + account.sign(personal(text)).hex()}
        fields |= {k: v for k, v in signed.items() if k not in given}
    assert set(fields) <= set(BINDING_FIELDS)
    return entry("binding", time, **{name: fields.get(name) for name in BINDING_FIELDS})


# --- 4.4 Totals --------------------------------------------------------------


def totals_leaf(wallet, source, numbers):
    """Numbers: records, input, output, cache_read, cache_write, reasoning, first, last."""
    code = {"proxy": 1, "custom": 2}[source]
    return b"\1" + bytes.fromhex(wallet[2:]) + bytes([code]) + b"".join(n.to_bytes(8, "big") for n in numbers)


def totals_leaves(entries_):
    """The leaves over the entries, sorted."""
    sums = {}
    for index, data in enumerate(entries_):
        said = json.loads(data)
        if said["kind"] != "usage" or said.get("link") != "bound":
            continue
        counts = [said.get(name, 0) for name in ("input", "output", "cache_read", "cache_write", "reasoning")]
        row = sums.setdefault((said["wallet"], said["source"]), [0, 0, 0, 0, 0, 0, index, index])
        row[0] += 1
        for i, count in enumerate(counts):
            row[i + 1] += count
        row[7] = index
    return sorted(totals_leaf(wallet, source, row) for (wallet, source), row in sums.items())


# --- 4.6 Anchors -------------------------------------------------------------


def anchor(time, **changed):
    fields = {"chain_id": 8453, "contract": "0x" + drawn("contract", 20).hex()}
    return entry("anchor", time, **(fields | changed))


# --- the files ---------------------------------------------------------------

LOG = Key("log.example.org", drawn("log"))
PATHED = Key("example.org/usage/2026", drawn("pathed"))
WITNESS = Key("witness.example.net/w1", drawn("witness"))


@vectors
def hashes():
    """Commitments and key ids (section 2)."""
    credential = b"sk-proj-" + drawn("credential").hex().encode()
    return {
        "key_ids": [
            {
                "origin": origin,
                "scheme": scheme,
                "credential_hex": secret.hex(),
                "key_id": key_id(origin, scheme, secret).hex(),
            }
            for origin, scheme, secret in [
                ("log.example.org", "openai", credential),
                ("log.example.org", "anthropic", credential),
                ("log.example.net", "openai", credential),
                ("example.org/usage/2026", "openai", credential),
                ("log.example.org", "link", drawn("link token")),
                ("log.example.org", "openai", bytes(range(256))),
                ("log.example.org", "openai", credential + bytes(1)),
                ("log.example.org", "openai", drawn("long", 4096)),
            ]
        ],
        "receipts": [
            {"id": name, "commitment": receipt_commitment(name).hex()}
            for name in [receipt_id("a"), receipt_id("b"), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"]
        ],
        "responses": [
            {"provider": p, "id": i, "commitment": response_commitment(p, i).hex()}
            for p, i in [
                ("openai", "resp_0123456789abcdef"),
                ("anthropic", "msg_01XFDUDYJgAACzvnptvVoYEL"),
                ("ab", "c"),
                ("a", "bc"),
                ("openai", ""),
                ("openai", "\u00fc\u20ac\U0001f642"),
                ("openai", 'quote" and \\ and \n'),
            ]
        ],
        "leaves": [
            {**blob("entry", data), "leaf_hash": leaf_hash(data).hex()}
            for data in [b"", b"\0", b"{}", bytes(64), drawn("leaf", 65535)[:300]]
        ],
        "nodes": [
            {"left": a.hex(), "right": b.hex(), "node": node(a, b).hex()}
            for a, b in [(bytes(32), bytes(32)), (drawn("left"), drawn("right")), (drawn("right"), drawn("left"))]
        ],
    }


@vectors
def credentials():
    """Which credential a request carries, and whom it identifies (section 2)."""
    origin = "log.example.org"
    secret = "sk-" + drawn("secret").hex()
    other = "sk-" + drawn("other").hex()
    twenty = "abcdefgh" + "a" * 12
    cases = [
        ("bearer", "openai", [("Authorization", f"Bearer {secret}")], False),
        ("any case of the scheme word", "openai", [("authorization", f"bEARER {secret}")], False),
        ("several spaces after it", "openai", [("authorization", f"Bearer    {secret}")], False),
        ("x-api-key", "anthropic", [("x-api-key", secret)], False),
        ("any case of the header", "anthropic", [("X-Api-Key", secret)], False),
        ("anthropic with a bearer", "anthropic", [("authorization", f"Bearer {secret}")], False),
        ("anthropic looks at x-api-key first", "anthropic", [("authorization", f"Bearer {other}"), ("x-api-key", secret)], False),
        ("others look at authorization first", "openai", [("x-api-key", other), ("authorization", f"Bearer {secret}")], False),
        ("then at x-api-key", "mistral", [("api-key", other), ("x-api-key", secret)], False),
        ("then at api-key", "azure", [("api-key", secret)], False),
        ("anthropic never at api-key", "anthropic", [("api-key", secret)], False),
        ("x-api-key loses no word", "openai", [("x-api-key", f"Bearer {secret}")], False),
        ("another provider, another id", "groq", [("authorization", f"Bearer {secret}")], False),
        ("gemini's own header", "gemini", [("x-goog-api-key", secret)], False),
        ("gemini looks at its own header first", "gemini", [("authorization", f"Bearer {other}"), ("x-goog-api-key", secret)], False),
        ("gemini with a bearer", "gemini", [("authorization", f"Bearer {secret}")], False),
        ("gemini never at x-api-key", "gemini", [("x-api-key", secret)], False),
        ("others never at x-goog-api-key", "openai", [("x-goog-api-key", secret)], False),
        ("none", "openai", [], False),
        ("basic is none", "openai", [("authorization", "Basic dXNlcjpwYXNzd29yZC10aGF0LWlzLWxvbmc=")], False),
        ("no scheme word is none", "openai", [("authorization", secret)], False),
        ("empty", "openai", [("authorization", "Bearer ")], False),
        ("19 bytes", "openai", [("authorization", f"Bearer {twenty[:19]}")], False),
        ("20 bytes of 8 values", "openai", [("authorization", f"Bearer {twenty}")], False),
        ("20 bytes of 7 values", "openai", [("authorization", "Bearer " + "abcdefg" + "a" * 13)], False),
        ("long, but of one value", "openai", [("authorization", "Bearer " + "x" * 60)], False),
        ("sent to ollama", "ollama", [("authorization", f"Bearer {secret}")], False),
        ("sent to an upstream that checks none", "local", [("authorization", f"Bearer {secret}")], True),
        ("the same to one that does", "private", [("authorization", f"Bearer {secret}")], False),
    ]
    token, second = (base64.urlsafe_b64encode(drawn(n)).decode().rstrip("=") for n in ("token", "second token"))
    wallet = "w/0x" + drawn("link wallet", 20).hex()
    bearer = [("authorization", f"Bearer {secret}")]
    linked = [("x-tally-link", token)]
    more = [
        ("gemini's query", "gemini", [], "", f"key={secret}"),
        ("the first of gemini's query", "gemini", [], "", f"alt=sse&key={secret}&key={other}"),
        ("gemini's query as it stands", "gemini", [], "", f"key={secret}%2B"),
        ("gemini's query after its headers", "gemini", bearer, "", f"key={other}"),
        ("a short one in gemini's query", "gemini", [], "", "key=abcdefgh"),
        ("others' query is called otherwise", "openai", [], "", f"key={secret}"),
        ("others' query", "azure", [], "", f"deployment=d&api-key={secret}"),
        ("others' query after their headers", "azure", [("api-key", secret)], "", f"api-key={other}"),
        ("anthropic has none", "anthropic", [], "", f"api-key={secret}&key={secret}"),
        ("a subprotocol", "openai", [("sec-websocket-protocol", f"realtime, openai-insecure-api-key.{secret}, openai-beta.realtime-v1")], "", ""),
        ("a subprotocol after the headers", "openai", bearer + [("sec-websocket-protocol", f"openai-insecure-api-key.{other}")], "", ""),
        ("a subprotocol before the query", "openai", [("Sec-WebSocket-Protocol", f"openai-insecure-api-key.{secret}")], "", f"api-key={other}"),
        ("two keys as subprotocols are nobody's", "openai", [("sec-websocket-protocol", f"openai-insecure-api-key.{secret},openai-insecure-api-key.{other}")], "", ""),
        ("gemini knows no subprotocol", "gemini", [("sec-websocket-protocol", f"openai-insecure-api-key.{secret}")], "", ""),
        ("a link token in a header", "openai", linked, "", ""),
        ("a link token in the path", "openai", [], f"t/{token}/", ""),
        ("a link token beside a credential", "openai", bearer + linked, "", ""),
        ("the path's before the header's", "openai", linked, f"t/{second}/", ""),
        ("a link token, whatever the provider", "anthropic", linked, "", ""),
        ("a link token to an upstream that checks none", "ollama", linked, "", ""),
        ("a link token before a wallet", "openai", bearer, f"t/{token}/{wallet}/", ""),
        ("a link token after a wallet", "openai", bearer, f"{wallet}/t/{token}/", ""),
        ("a wallet alone", "openai", bearer, f"{wallet}/", ""),
    ]
    cases = [(*case[:3], "", "", case[3]) for case in cases] + [(*case, False) for case in more]
    return {
        "cases": [
            {
                "name": name,
                "origin": origin,
                "provider": provider,
                "unchecked": unchecked,
                "headers": [list(h) for h in headers],
                "path": path,
                "query": query,
                "key_id": (found := identity(origin, provider, headers, path, query, unchecked)) and found.hex(),
            }
            for name, provider, headers, path, query, unchecked in cases
        ]
    }


@vectors
def keys():
    """Origins and verifier keys (section 3)."""
    label63, label64 = "a" * 63, "a" * 64
    good_origins = [
        "a.b",
        "log.example.org",
        "1.2",
        "x-1.y-2.z",
        "a.b/c",
        "example.org/A_~.-/b/0",
        "tally.invalid/0123456789abcdef",
        "xn--bcher-kva.example",
        "a.b/..",
        f"{label63}.b",
        "a." + "b." * 48 + "cd",
        "a.b/" + "c" * 96,
    ]
    bad_origins = {
        "empty": "",
        "no dot": "localhost",
        "upper case": "Log.example.org",
        "empty label": "a..b",
        "leading dot": ".a.b",
        "trailing dot": "a.b.",
        "leading hyphen": "-a.b",
        "trailing hyphen": "a.b-",
        "inner label's hyphen": "a.b-.c",
        "label of 64": f"{label64}.b",
        "101 bytes": "a.b/" + "c" * 97,
        "trailing slash": "a.b/",
        "empty segment": "a.b//c",
        "leading slash": "/a.b",
        "port": "a.b:443",
        "scheme": "https://a.b",
        "plus": "a.b/c+d",
        "space": "a.b/c d",
        "percent": "a.b/%20",
        "query": "a.b/c?d",
        "underscore in a label": "a_b.c",
        "not ASCII": "b\u00fccher.example",
        "not ASCII in the path": "a.b/\u00fc",
        "newline": "a.b\n",
        "a receipt's first line": "tallystick/receipt/v1",
    }
    assert all(len(o) <= 100 for o in good_origins)

    public = LOG.public
    point = times(LOG.scalar, BASE)
    assert pack(point) == public
    bad_points = {"not on the curve": raw_key(next(y for y in range(2, 99) if x_of(y, 0) is None), 0)}
    for i, small in enumerate(TORSION):
        order = next(n for n in (1, 2, 4, 8) if times(n, small) == NEUTRAL)
        bad_points[f"small order {order}, no {i}"] = pack(small)
        if i:
            bad_points[f"the log's key plus torsion {i}"] = pack(add(point, small))
    bad_points["neutral, y = 1 + p"] = raw_key(1 + P, 0)
    bad_points["neutral, x = 0 with a sign"] = raw_key(1, 1)
    bad_points["neutral, y = 1 + p with a sign"] = raw_key(1 + P, 1)
    bad_points["order 2, x = 0 with a sign"] = raw_key(P - 1, 1)
    bad_points["order 4, y = p"] = raw_key(P, 0)
    bad_points["order 4, y = p with a sign"] = raw_key(P, 1)
    for y in range(2, 19):
        for sign in (0, 1):
            if x_of(y, sign) is not None:
                bad_points[f"y = {y} + p, sign {sign}"] = raw_key(y + P, sign)
    ed = LOG.origin
    right = vkey(ed, public)
    name, hashed, material = right.split("+", 2)
    bad_vkeys = {
        "empty": "",
        "name only": ed,
        "no key": f"{ed}+{hashed}",
        "empty key": f"{ed}+{hashed}+",
        "another name": right.replace("log.", "lag."),
        "no origin": vkey("localhost", public),
        "hash in upper case": f"{ed}+{hashed.upper()}+{material}",
        "hash of another key": vkey(ed, public, hashed=key_hash(ed, WITNESS.public).hex()),
        "hash of 7 digits": f"{ed}+{hashed[:7]}+{material}",
        "hash of 9 digits": f"{ed}+0{hashed}+{material}",
        "31 bytes": vkey(ed, public[:31]),
        "33 bytes": vkey(ed, public + b"\0"),
        "type 0": vkey(ed, public, kind=0),
        "type 2": vkey(ed, public, kind=2),
        "type 4, a cosigner": vkey(ed, public, kind=4),
        "url-safe base64": "",
        "white space": right + " ",
        "newline": right + "\n",
        "leading space": " " + right,
        "a part more": right + "+x",
    }
    assert hashed != hashed.upper()
    safe = next(
        k for k in (Key(ed, drawn(f"safe {i}")) for i in range(99)) if set("+/") & set(k.vkey.split("+", 2)[2])
    )
    head, safe_hash, safe_material = safe.vkey.split("+", 2)
    bad_vkeys["url-safe base64"] = f"{head}+{safe_hash}+{safe_material.replace('+', '-').replace('/', '_')}"
    signed = next(k for k in (Key(ed, drawn(f"sign {i}")) for i in range(99)) if k.public[31] & 0x80)
    good = [
        {"name": name, "seed": k.seed.hex(), "public": k.public.hex(), "origin": k.origin, "vkey": k.vkey}
        for name, k in [
            ("the log's", LOG),
            ("with a path", PATHED),
            ("with + or / in its base64", safe),
            ("with a sign bit", signed),
            ("RFC 8032 test 1", Key("a.b", bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))),
        ]
    ]
    return {
        "origins_good": [{"origin": o} for o in good_origins],
        "origins_bad": [{"name": n, "origin": o} for n, o in bad_origins.items()],
        "vkeys_good": good,
        "points_good": [
            {"name": n, "public": pack(p).hex()} for n, p in [("the base point", BASE), ("its double", add(BASE, BASE))]
        ],
        "points_bad": [{"name": n, "vkey": vkey(ed, p), "public": p.hex()} for n, p in bad_points.items()],
        "vkeys_bad": [{"name": n, "vkey": v} for n, v in bad_vkeys.items()],
    }


@vectors
def signatures():
    """Verdicts on Ed25519 signatures under admitted keys (section 3)."""
    message = receipt_text(LOG.origin, 7, drawn("message")).encode()
    honest = LOG.sign(message)
    r, s = honest[:32], int.from_bytes(honest[32:], "little")

    def with_s(value):
        return r + value.to_bytes(32, "little")

    nonce = int.from_bytes(drawn("nonce"), "little") % L
    commitment = times(nonce, BASE)
    cases = [
        ("honest", message, honest, True),
        ("an empty message", b"", LOG.sign(b""), True),
        ("a nonce of one's own", message, LOG.forge(pack(commitment), nonce, message), True),
        ("R is the base point", message, LOG.forge(pack(BASE), 1, message), True),
        ("another message", message + b"\n", honest, False),
        ("another key's", message, WITNESS.sign(message), False),
        ("all zeros", message, bytes(64), False),
        ("all ones", message, b"\xff" * 64, False),
        ("R of a bit more", message, bytes([honest[0] ^ 1]) + honest[1:], False),
        ("R's sign turned", message, honest[:31] + bytes([honest[31] ^ 0x80]) + honest[32:], False),
        ("S of a bit more", message, with_s(s ^ 1), False),
        ("S negated", message, with_s(L - s), False),
        ("S + L", message, with_s(s + L), False),
        ("S + 2 L", message, with_s(s + 2 * L), False),
        ("S = 0", message, with_s(0), False),
        ("S = L", message, with_s(L), False),
        ("S with its highest bit", message, with_s(s | 1 << 255), False),
    ]
    assert s + 7 * L < 2**256
    cases.append(("S + 7 L", message, with_s(s + 7 * L), False))
    # R neutral: the equation holds, as S = k a; yet R is of small order.
    spellings = {
        "R = 01 00..00": raw_key(1, 0),
        "R neutral, y = 1 + p": raw_key(1 + P, 0),
        "R neutral with a sign": raw_key(1, 1),
        "R neutral, y = 1 + p with a sign": raw_key(1 + P, 1),
    }
    for name, encoded in spellings.items():
        cases.append((f"{name}, and the equation holds", message, LOG.forge(encoded, 0, message), False))
    # R with torsion: the equation holds only with the cofactor.
    for i in range(1, 8):
        cases.append((f"R of small order, no {i}", message, LOG.forge(pack(TORSION[i]), 0, message), False))
        mixed = pack(add(commitment, TORSION[i]))
        cases.append((f"R with torsion {i}", message, LOG.forge(mixed, nonce, message), False))
    for y, sign in [(P, 0), (P, 1), (P - 1, 1)]:
        cases.append((f"R = {y} - p + p of order 2 or 4, sign {sign}", message, LOG.forge(raw_key(y, sign), 0, message), False))
    off_curve = raw_key(next(y for y in range(2, 99) if x_of(y, 0) is None), 0)
    cases.append(("R not on the curve", message, off_curve + honest[32:], False))
    noncanonical = next(y for y in range(2, 19) if x_of(y, 0) is not None)
    cases.append(("R not canonical, y >= p", message, LOG.forge(raw_key(noncanonical + P, 0), 0, message), False))
    return {
        "verdicts": [
            {"name": n, "vkey": LOG.vkey, "message_hex": m.hex(), "signature": sig.hex(), "valid": valid}
            for n, m, sig, valid in cases
        ]
    }


@vectors
def notes():
    """Signed notes, checkpoints, receipts (sections 6 and 7)."""
    key, hashed = LOG, key_hash(LOG.origin, LOG.public)
    text = "one\n\ntwo \u00fc\n"
    note = seal(text, key)
    ours = signature_line(key.origin, hashed, key.sign(text.encode()))
    theirs = signature_line(WITNESS.origin, key_hash(WITNESS.origin, WITNESS.public), WITNESS.sign(text.encode()))
    cosigned = signature_line(WITNESS.origin, drawn("cosigner", 4), drawn("cosignature", 72))
    wrong = signature_line(key.origin, hashed, key.sign(b"else\n"))
    same_hash = signature_line(WITNESS.origin, hashed, drawn("x", 64))
    same_name = signature_line(key.origin, drawn("other hash", 4), drawn("x", 64))
    filler = "\n".join("x" * 990 for _ in range(66)) + "\n"
    longest = filler + "y" * (65536 - len(seal(filler, key).encode()) - 1) + "\n"
    good = [
        ("ours alone", note, text),
        ("a witness before ours", f"{text}\n{theirs}{ours}", text),
        ("a witness after ours", f"{text}\n{ours}{theirs}", text),
        ("a timestamped cosignature", f"{text}\n{ours}{cosigned}", text),
        ("another name with our hash", f"{text}\n{same_hash}{ours}", text),
        ("our name with another hash", f"{text}\n{same_name}{ours}", text),
        ("ours twice", f"{text}\n{ours}{ours}", text),
        ("64 lines", f"{text}\n{theirs * 63}{ours}", text),
        ("65,536 bytes", seal(longest, key), longest),
    ]
    assert len(seal(longest, key).encode()) == 65536
    signature = key.sign(text.encode())
    bare = f"{text}\n"
    bad = [
        ("empty", ""),
        ("text only", text),
        ("no signature line", bare),
        ("a witness only", f"{bare}{theirs}"),
        ("our name with another hash only", f"{bare}{same_name}"),
        ("another name with our hash only", f"{bare}{same_hash}"),
        ("signed over another text", f"{bare}{wrong}"),
        ("a wrong line beside the right one", f"{bare}{ours}{wrong}"),
        ("a wrong line before the right one", f"{bare}{wrong}{ours}"),
        ("text changed", note.replace("two", "six")),
        ("signature of 63 bytes", bare + signature_line(key.origin, hashed, signature[:63])),
        ("signature of 65 bytes", bare + signature_line(key.origin, hashed, signature + b"\0")),
        ("no newline at the end", note[:-1]),
        ("an empty line more", note + "\n"),
        ("a line that is no signature", note + "x\n"),
        ("a hyphen for the dash", note.replace("\u2014", "-")),
        ("two spaces after the dash", note.replace("\u2014 ", "\u2014  ")),
        ("two spaces before the signature", note.replace("org ", "org  ")),
        ("a space at the end", note[:-1] + " \n"),
        ("carriage returns", note.replace("\n", "\r\n")),
        ("a tab in the text", seal("one\ttwo\n", key)),
        ("a null byte in the text", seal("one\0two\n", key)),
        ("no empty line", note.replace("\n\n\u2014", "\n\u2014")),
        ("base64 without padding", note.replace("=", "")),
        ("base64 with a pad bit set", bare + f"\u2014 {key.origin} {stray_bit(b64(hashed + signature))}\n"),
        ("not base64", bare + f"\u2014 {key.origin} {'!' * 92}\n"),
        ("65 lines", f"{bare}{theirs * 64}{ours}"),
        ("65,537 bytes", seal("z" + longest, key)),
        ("an empty text", seal("", key)),
        ("a line with an empty name", bare + ours + f"\u2014  {b64(hashed + signature)}\n"),
        ("a line with a plus in its name", bare + ours + f"\u2014 a+b {b64(hashed + signature)}\n"),
    ]
    not_utf8 = note.encode().replace(b"two", b"t\xffo")

    root = drawn("root")
    checkpoints = [
        (f"size {size}", size, root, seal(checkpoint_text(key.origin, size, root), key))
        for size in [1, 2, 255, 256, 1_234_567, 2**53 - 1]
    ]
    checkpoints.append(("size 0", 0, sha256(b""), seal(checkpoint_text(key.origin, 0, sha256(b"")), key)))
    body = checkpoint_text(key.origin, 7, root)
    with_witness = seal(body, key) + signature_line(WITNESS.origin, drawn("cosigner", 4), drawn("cosig", 72))
    checkpoints.append(("with a cosignature", 7, root, with_witness))
    bad_checkpoints = {
        "an extension line": body + "x\n",
        "an empty line more": body + "\n",
        "two lines": f"{key.origin}\n7\n",
        "another origin": checkpoint_text("log.example.net", 7, root),
        "origin in upper case": checkpoint_text("LOG.example.org", 7, root),
        "a leading zero": body.replace("\n7\n", "\n07\n"),
        "a sign": body.replace("\n7\n", "\n+7\n"),
        "a negative size": body.replace("\n7\n", "\n-7\n"),
        "a size in hex": body.replace("\n7\n", "\n0x7\n"),
        "a fraction": body.replace("\n7\n", "\n7.0\n"),
        "no size": body.replace("\n7\n", "\n\n"),
        "a space": body.replace("\n7\n", "\n7 \n"),
        "a size of 2^53": body.replace("\n7\n", f"\n{2**53}\n"),
        "a size of 2^64 + 7": body.replace("\n7\n", f"\n{2**64 + 7}\n"),
        "a root of 31 bytes": checkpoint_text(key.origin, 7, root[:31]),
        "a root of 33 bytes": checkpoint_text(key.origin, 7, root + b"\0"),
        "a root in hex": f"{key.origin}\n7\n{root.hex()}\n",
        "an unpadded root": body.replace("=", ""),
        "a pad bit set in the root": f"{key.origin}\n7\n{stray_bit(b64(root))}\n",
        "a receipt": receipt_text(key.origin, 7, root),
    }
    leaf = drawn("leaf of a receipt")
    receipts = [
        (f"index {index}", index, leaf, seal(receipt_text(key.origin, index, leaf), key))
        for index in [0, 1, 255, 256, 1_234_567, 2**53 - 1]
    ]
    said = receipt_text(key.origin, 7, leaf)
    bad_receipts = {
        "another head": said.replace("/v1", "/v2"),
        "another origin": receipt_text("log.example.net", 7, leaf),
        "a line more": said + "x\n",
        "an empty line more": said + "\n",
        "three lines": said.rsplit("\n", 2)[0] + "\n",
        "a leading zero": said.replace("\n7\n", "\n07\n"),
        "a sign": said.replace("\n7\n", "\n+7\n"),
        "an index of 2^53": said.replace("\n7\n", f"\n{2**53}\n"),
        "a leaf hash of 31 bytes": receipt_text(key.origin, 7, leaf[:31]),
        "a leaf hash in hex": said.replace(b64(leaf), leaf.hex()),
        "a pad bit set": said.replace(b64(leaf), stray_bit(b64(leaf))),
        "a checkpoint": checkpoint_text(key.origin, 7, leaf),
    }
    pathed = seal(receipt_text(PATHED.origin, 3, leaf), PATHED)
    return {
        "notes_good": [
            {"name": n, "vkey": key.vkey, **blob("note", note.encode()), **blob("text", t.encode())}
            for n, note, t in good
        ],
        "notes_bad": [{"name": n, "vkey": key.vkey, **blob("note", note.encode())} for n, note in bad]
        + [{"name": "not UTF-8", "vkey": key.vkey, **blob("note", not_utf8)}],
        "sealed": [
            {"seed": k.seed.hex(), "origin": k.origin, "text": t, "note": seal(t, k)}
            for k in (LOG, PATHED)
            for t in (text, body, said)
        ],
        "checkpoints_good": [
            {"name": n, "vkey": key.vkey, "size": s, "root": r.hex(), "note": note} for n, s, r, note in checkpoints
        ],
        "checkpoints_bad": [{"name": n, "vkey": key.vkey, "note": seal(t, key)} for n, t in bad_checkpoints.items()],
        "receipts_good": [
            {"name": n, "vkey": key.vkey, "index": i, "leaf_hash": h.hex(), "note": note} for n, i, h, note in receipts
        ]
        + [{"name": "an origin with a path", "vkey": PATHED.vkey, "index": 3, "leaf_hash": leaf.hex(), "note": pathed}],
        "receipts_bad": [{"name": n, "vkey": key.vkey, "note": seal(t, key)} for n, t in bad_receipts.items()],
    }


def good_usages():
    """(name, time, fields) of usage entries that section 4.2 allows."""
    base = {"receipt": receipt_commitment(receipt_id("good")).hex(), "source": "proxy", "provider": "openai"}
    wallet = "0x" + drawn("wallet", 20).hex()
    full = base | {
        "key_id": drawn("key id").hex(),
        "model": "gpt-5-mini-2025-08-07",
        "input": 2006,
        "cache_read": 1920,
        "cache_write": 0,
        "output": 300,
        "reasoning": 192,
        "outcome": "complete",
        "response": response_commitment("openai", "resp_1").hex(),
    }
    top = 2**32 - 1
    without = lambda *names: {k: v for k, v in full.items() if k not in names}
    counts = ("input", "cache_read", "cache_write", "output", "reasoning")
    cases = [
        ("all fields", full | {"wallet": wallet, "link": "claimed"}),
        ("anonymous", without("key_id")),
        ("a bound wallet", full | {"wallet": wallet, "link": "bound"}),
        ("of a custom host", full | {"source": "custom", "provider": "example.co.uk"}),
        ("without a model", without("model")),
        ("without a response id", without("response")),
        ("input only", without(*counts) | {"input": 5}),
        ("output only", without(*counts) | {"output": 5}),
        ("input 0", without(*counts) | {"input": 0}),
        ("the largest counts", full | dict.fromkeys(counts, top) | {"cache_read": 1, "cache_write": top - 1}),
        ("parts that fill the whole", full | {"input": 10, "cache_read": 4, "cache_write": 6, "output": 3, "reasoning": 3}),
        ("flagged cache over input", full | {"input": 10, "cache_read": 6, "cache_write": 5, "flag": "inconsistent"}),
        ("flagged sum over 2^32", full | {"input": top, "cache_read": top, "cache_write": 1, "flag": "inconsistent"}),
        ("flagged reasoning over output", full | {"output": 1, "reasoning": 2, "flag": "inconsistent"}),
        ("flagged parts without a whole", without("input") | {"flag": "inconsistent"}),
        ("flagged though the parts fit", full | {"flag": "inconsistent"}),
        ("parts of 0 without a whole", without(*counts) | {"output": 1, "cache_read": 0, "cache_write": 0}),
        ("aborted with counts", full | {"outcome": "aborted"}),
        ("aborted without counts", without(*counts) | {"outcome": "aborted"}),
        ("partial with counts", full | {"outcome": "partial"}),
        ("partial without counts", without(*counts) | {"outcome": "partial"}),
        ("partial with a part only", without(*counts) | {"outcome": "partial", "reasoning": 0}),
        ("unmetered", without(*counts) | {"outcome": "unmetered"}),
        ("unknown", without(*counts, "model", "response") | {"outcome": "unknown"}),
        ("a model of 128 bytes", full | {"model": "m" * 128}),
        ("a model of 1 byte", full | {"model": " "}),
        ("a model of every character", full | {"model": "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) not in '"\\')}),
    ]
    timed = [(name, 1_760_000_001, fields) for name, fields in cases]
    return [*timed, ("time 0", 0, full), ("the last time", 2**53 - 1, full)]


def canonical(data):
    """Python's own view: whether `data` is an object in the spelling of json.dumps."""
    return json.dumps(json.loads(data), separators=(",", ":")).encode() == data


@vectors
def entries():
    """Entries: read, refused, and known to be unknown (section 4)."""
    logs = [
        ("an example", 1_760_000_000, LOG, {}),
        ("an origin with a path", 1_760_000_000, PATHED, {}),
        ("rules of tomorrow", 1_760_000_000, LOG, {"rules": 2}),
        ("settings of 2^53 - 1", 5, LOG, {"totals_interval": 2**53 - 1, "publish_max": 2**53 - 1}),
        ("the longest origin", 5, Key("a.b/" + "c" * 96, drawn("longest")), {}),
    ]
    good_logs = [
        {"name": n, **blob("entry", data), "leaf_hash": leaf_hash(data).hex(), "fields": json.loads(data)}
        for n, data in ((n, log_entry(t, k, **changed)) for n, t, k, changed in logs)
    ]
    good = [
        {"name": n, **blob("entry", data), "leaf_hash": leaf_hash(data).hex(), "fields": json.loads(data)}
        for n, data in ((n, usage(t, **fields)) for n, t, fields in good_usages())
    ]
    anchors_ = [
        ("an example", anchor(1_760_000_003)),
        ("the first chain", anchor(5, chain_id=1)),
        ("the last chain", anchor(5, chain_id=2**53 - 1)),
    ]
    unknown = [
        ("a kind of tomorrow", entry("later", 5, size=3, root="00" * 32), 1, "later", 5),
        ("no fields", entry("later", 5), 1, "later", 5),
        ("a version of tomorrow", entry("usage", 6, version=2, cost={"a": [1, None]}), 2, "usage", 6),
        ("version 0", entry("usage", 6, version=0), 0, "usage", 6),
        ("the largest version", entry("log", 6, version=2**53 - 1), 2**53 - 1, "log", 6),
        ("white space in what follows", b'{"v":1,"kind":"later","time":7,"x": [ 1 ] }', 1, "later", 7),
        ("every character in what follows", b'{"v":1,"kind":"a_-9","time":7,' + bytes(range(0x20, 0x7F)) + b"}", 1, "a_-9", 7),
        ("a kind of 32 bytes", entry("k" * 32, 7), 1, "k" * 32, 7),
        ("65,535 bytes", filled(65_535), 1, "k", 7),
    ]
    name, time, fields = good_usages()[0]
    base = usage(time, **fields).decode()
    bound = usage(time, **fields | {"link": "bound"}).decode()
    log = log_entry(1_760_000_000, LOG).decode()

    def with_fields(**changed):
        merged = {k: v for k, v in (fields | changed).items() if v is not None}
        return usage(time, **merged)

    def swapped(text, old, new):
        assert old in text, old
        return text.replace(old, new, 1).encode()

    hashed = fields["receipt"]
    bad = [
        ("nothing", b""),
        ("an empty object", b"{}"),
        ("65,536 bytes", filled(65_536)),
        ("a newline at the end", base.encode() + b"\n"),
        ("a space at the end", base.encode() + b" "),
        ("a space at the start", b" " + base.encode()),
        ("a byte order mark", b"\xef\xbb\xbf" + base.encode()),
        ("white space after a comma", swapped(base, ',"source"', ', "source"')),
        ("white space after a colon", swapped(base, '"source":', '"source": ')),
        ("a tab", swapped(base, ',"source"', ',\t"source"')),
        ("a newline inside", swapped(base, ',"source"', ',\n"source"')),
        ("no closing brace", base[:-1].encode()),
        ("two objects", base.encode() * 2),
        ("a comma before the brace", base[:-1].encode() + b",}"),
        ("two commas", swapped(base, ',"source"', ',,"source"')),
        ("head out of order", swapped(base, '"v":1,"kind":"usage"', '"kind":"usage","v":1')),
        ("no version", swapped(base, '"v":1,', "")),
        ("version as text", swapped(base, '"v":1', '"v":"1"')),
        ("version with a leading zero", swapped(base, '"v":1', '"v":01')),
        ("version with a fraction", swapped(base, '"v":1', '"v":1.0')),
        ("no time", swapped(base, f',"time":{time}', "")),
        ("time with a leading zero", swapped(base, f'"time":{time}', f'"time":0{time}')),
        ("time with a fraction", swapped(base, f'"time":{time}', f'"time":{time}.0')),
        ("time with an exponent", swapped(base, f'"time":{time}', '"time":176e7')),
        ("time with a sign", swapped(base, f'"time":{time}', f'"time":+{time}')),
        ("time before 1970", swapped(base, f'"time":{time}', '"time":-1')),
        ("time of 2^53", swapped(base, f'"time":{time}', f'"time":{2**53}')),
        ("time as text", swapped(base, f'"time":{time}', f'"time":"{time}"')),
        ("kind in upper case", swapped(base, '"usage"', '"Usage"')),
        ("kind empty", swapped(base, '"usage"', '""')),
        ("kind of 33 bytes", entry("k" * 33, 7)),
        ("kind with a dot", entry("a.b", 7)),
        ("unknown kind with a newline", b'{"v":1,"kind":"later","time":5,"x":"\n"}'),
        ("unknown kind with a byte over 0x7E", b'{"v":1,"kind":"later","time":5,"x":"\x7f"}'),
        ("unknown kind, not ASCII", '{"v":1,"kind":"later","time":5,"x":"\u00fc"}'.encode()),
        ("unknown kind without a brace", b'{"v":1,"kind":"later","time":5,"x":1'),
        ("unknown kind, something after time", b'{"v":1,"kind":"later","time":5x}'),
        ("unknown kind, a space after time", b'{"v":1,"kind":"later","time":5 }'),
        ("unknown kind, white space in the head", b'{"v":1, "kind":"later","time":5}'),
        ("unknown kind, a newline at the end", b'{"v":1,"kind":"later","time":5}\n'),
        ("unknown version, head out of order", b'{"kind":"usage","v":2,"time":5}'),
        ("an unknown field", swapped(base, ',"outcome"', ',"cost":1,"outcome"')),
        ("an unknown field at the end", base[:-1].encode() + b',"cost":1}'),
        ("a field twice", swapped(base, ',"output":300', ',"output":300,"output":300')),
        ("fields swapped", swapped(base, '"source":"proxy","provider":"openai"', '"provider":"openai","source":"proxy"')),
        ("counts swapped", swapped(base, '"input":2006,"cache_read":1920', '"cache_read":1920,"input":2006')),
        ("a field's name in upper case", swapped(base, '"source"', '"Source"')),
        ("a field's name with an escape", swapped(base, '"source"', '"s\\u006furce"')),
        ("null for absent", swapped(base, f'"model":"{fields["model"]}"', '"model":null')),
        ("no receipt", with_fields(receipt=None)),
        ("no source", with_fields(source=None)),
        ("no provider", with_fields(provider=None)),
        ("no outcome", with_fields(outcome=None)),
        ("a hash in upper case", swapped(base, hashed, hashed.upper())),
        ("a hash of 63 digits", swapped(base, hashed, hashed[:63])),
        ("a hash of 65 digits", swapped(base, hashed, hashed + "0")),
        ("a hash that is none", swapped(base, hashed, "g" + hashed[1:])),
        ("an upper-case key id", swapped(base, fields["key_id"], fields["key_id"].upper())),
        ("a short key id", swapped(base, fields["key_id"], fields["key_id"][:40])),
        ("an upper-case response", swapped(base, fields["response"], fields["response"].upper())),
        ("a wallet in upper case", swapped(base, fields["wallet"], "0x" + fields["wallet"][2:].upper())),
        ("a wallet with 0X", swapped(base, '"0x', '"0X')),
        ("a wallet without 0x", swapped(base, '"0x', '"')),
        ("a wallet of 39 digits", swapped(base, fields["wallet"], fields["wallet"][:-1])),
        ("a wallet of 41 digits", swapped(base, fields["wallet"], fields["wallet"] + "0")),
        ("a wallet without link", with_fields(link=None)),
        ("a link without wallet", with_fields(wallet=None)),
        ("an unknown link", with_fields(link="owned")),
        ("an unknown source", with_fields(source="import")),
        ("a source in upper case", with_fields(source="Proxy")),
        ("an unknown outcome", with_fields(outcome="completed")),
        ("an unknown flag", with_fields(flag="estimated")),
        ("an empty provider", with_fields(provider="")),
        ("an empty model", with_fields(model="")),
        ("a model of 129 bytes", with_fields(model="m" * 129)),
        ("an escape", swapped(base, '"openai"', '"open\\u0061i"')),
        ("an escaped quotation mark", with_fields(model='a"b')),
        ("an escaped backslash", with_fields(model="a\\b")),
        ("an escaped slash", swapped(base, '"openai"', '"open\\/ai"')),
        ("a control character", swapped(base, '"openai"', '"open\x1fai"')),
        ("a delete character", swapped(base, '"openai"', '"open\x7fai"')),
        ("not ASCII", swapped(base, '"openai"', '"open\u00e4i"')),
        ("a byte that is no UTF-8", base.encode().replace(b'"openai"', b'"open\xffai"')),
        ("a count with a leading zero", swapped(base, '"output":300', '"output":0300')),
        ("a count with a fraction", swapped(base, '"output":300', '"output":300.0')),
        ("a count with an exponent", swapped(base, '"output":300', '"output":3e2')),
        ("a count with a plus", swapped(base, '"output":300', '"output":+300')),
        ("a count below 0", swapped(base, '"output":300', '"output":-300')),
        ("a count of -0", swapped(base, '"cache_write":0', '"cache_write":-0')),
        ("a count of 00", swapped(base, '"cache_write":0', '"cache_write":00')),
        ("a count as text", swapped(base, '"output":300', '"output":"300"')),
        ("a count that is null", swapped(base, '"output":300', '"output":null')),
        ("a count without digits", swapped(base, '"output":300', '"output":')),
        ("a count of 2^32", with_fields(input=2**32)),
        ("a count of 2^64 + 5", with_fields(input=2**64 + 5)),
        ("a cache read of 2^32", with_fields(input=2**32 - 1, cache_read=2**32, flag="inconsistent")),
        ("a cache write of 2^32", with_fields(input=2**32 - 1, cache_write=2**32, flag="inconsistent")),
        ("an output of 2^32", with_fields(output=2**32)),
        ("a reasoning of 2^32", with_fields(reasoning=2**32, flag="inconsistent")),
        ("cache over input, not flagged", with_fields(cache_read=2006, cache_write=1)),
        ("cache without input, not flagged", with_fields(input=None)),
        ("cache sum over 2^32, not flagged", with_fields(input=2**32 - 1, cache_read=2**32 - 1, cache_write=1)),
        ("reasoning over output, not flagged", with_fields(reasoning=301)),
        ("reasoning without output, not flagged", with_fields(output=None)),
        ("counts though unmetered", with_fields(outcome="unmetered")),
        ("counts though unknown", with_fields(outcome="unknown")),
        (
            "a part though unmetered",
            with_fields(input=None, cache_read=None, cache_write=0, output=None, reasoning=None, outcome="unmetered"),
        ),
        (
            "complete without counts",
            with_fields(input=None, cache_read=None, cache_write=None, output=None, reasoning=None),
        ),
        (
            "complete with parts only",
            with_fields(input=None, cache_read=0, cache_write=0, output=None, reasoning=0),
        ),
        (
            "a flag without counts",
            with_fields(
                input=None, cache_read=None, cache_write=None, output=None, reasoning=None,
                outcome="aborted", flag="inconsistent",
            ),
        ),
        ("bound before its fields", swapped(bound, '"link":"bound"', '"link":bound')),
        ("log: no origin", swapped(log, f'"origin":"{LOG.origin}",', "")),
        ("log: another origin than the vkey's", swapped(log, f'"origin":"{LOG.origin}"', '"origin":"log.example.net"')),
        ("log: an origin that is none", log_entry(5, LOG, origin="localhost")),
        ("log: no vkey", log_entry(5, LOG, vkey=None)),
        ("log: a vkey of small order", log_entry(5, LOG, vkey=vkey(LOG.origin, pack(TORSION[1])))),
        ("log: a vkey with torsion", log_entry(5, LOG, vkey=vkey(LOG.origin, pack(add(BASE, TORSION[4]))))),
        ("log: a vkey with another hash", log_entry(5, LOG, vkey=vkey(LOG.origin, LOG.public, hashed="00000000"))),
        ("log: no rules", log_entry(5, LOG, rules=None)),
        ("log: rules as text", log_entry(5, LOG, rules="1")),
        ("log: rules with a leading zero", swapped(log, '"rules":1', '"rules":01')),
        ("log: no totals_interval", log_entry(5, LOG, totals_interval=None)),
        ("log: no publish_max", log_entry(5, LOG, publish_max=None)),
        ("log: publish_max of 2^53", log_entry(5, LOG, publish_max=2**53)),
        ("log: a negative interval", log_entry(5, LOG, totals_interval=-1)),
        ("log: no evm_key", log_entry(5, LOG, evm_key=None)),
        ("log: evm_key in upper case", log_entry(5, LOG, evm_key="0x" + "AB" * 20)),
        ("log: a short evm_key", log_entry(5, LOG, evm_key="0x" + "ab" * 19)),
        ("log: a field more", log[:-1].encode() + b',"x":1}'),
        ("log: fields swapped", swapped(log, '"rules":1,"totals_interval":600', '"totals_interval":600,"rules":1')),
        ("anchor: no chain", anchor(5, chain_id=None)),
        ("anchor: chain 0", anchor(5, chain_id=0)),
        ("anchor: a chain of 2^53", anchor(5, chain_id=2**53)),
        ("anchor: a chain as text", anchor(5, chain_id="1")),
        ("anchor: no contract", anchor(5, contract=None)),
        ("anchor: a contract in upper case", anchor(5, contract="0x" + "AB" * 20)),
        ("anchor: a short contract", anchor(5, contract="0x" + "ab" * 19)),
        ("anchor: a field more", anchor(5, x=1)),
        ("anchor: fields swapped", entry("anchor", 5, contract="0x" + "ab" * 20, chain_id=1)),
        ("log: an escaped slash in the origin", log_entry(5, PATHED).replace(b"org/", b"org\\/", 1)),
    ]
    assert all(canonical(e.get("entry").encode()) for e in good + good_logs)
    names = [n for n, _ in bad]
    assert len(set(names)) == len(names)
    return {
        "log_good": good_logs,
        "usage_good": good,
        "anchor_good": [
            {"name": n, **blob("entry", d), "leaf_hash": leaf_hash(d).hex(), "fields": json.loads(d)} for n, d in anchors_
        ],
        "unknown": [
            {"name": n, **blob("entry", d), "leaf_hash": leaf_hash(d).hex(), "version": v, "kind": k, "time": t}
            for n, d, v, k, t in unknown
        ],
        "bad": [{"name": n, **blob("entry", d)} for n, d in bad],
    }


ALICE, BOB = Account("alice"), Account("bob")
KEY = drawn("bound key").hex()
NOON = 1_760_000_000


@vectors
def bindings():
    """Bindings: their messages, what one entry shows alone, and what a key's history makes of them (section 4.3)."""
    first = leaf_hash(log_entry(NOON, LOG, rules=2)).hex()
    base = {"key_id": KEY, "previous": first, "wallet": ALICE}
    contract = {
        "wallet": "0x" + drawn("contract", 20).hex(), "chain_id": 8453, "scheme": "eip1271", "block": 19,
        "block_hash": drawn("block").hex(), "signature": "0x" + drawn("contract signature", 97).hex(),
    }
    good = [
        ("link", LOG, NOON, base),
        ("link in a log with a path", PATHED, NOON, base),
        ("link on another chain", LOG, NOON, base | {"chain_id": 2**53 - 1}),
        ("release", LOG, NOON, base | {"action": "release"}),
        ("move", LOG, NOON, base | {"action": "move", "to": BOB}),
        ("burn", LOG, NOON, base | {"action": "burn"}),
        ("link by a contract", LOG, NOON, base | contract),
        ("link by a contract, no bytes", LOG, NOON, base | contract | {"signature": "0x"}),
        ("link by a contract, 2,048 bytes", LOG, NOON, base | contract | {"signature": "0x" + "ab" * 2_048}),
        ("move to a contract", LOG, NOON, base | {"action": "move", "chain_id": 8453, "to": contract["wallet"]}
            | {f"to_{name}": contract[name] for name in ("scheme", "block", "block_hash", "signature")}),
        ("issued 300 s ahead", LOG, NOON, base | {"issued_at": NOON + 300, "expires_at": NOON + 301}),
        ("holds a day", LOG, NOON, base | {"issued_at": NOON - 86_399, "expires_at": NOON + 1}),
        ("in the last second", LOG, 253_402_300_798, base | {"expires_at": 253_402_300_799}),
        ("on a leap day", LOG, 1_709_164_800, base),
    ]

    def shown(name, key, time, fields):
        data = binding(time, key.origin, **fields)
        texts = messages(key.origin, json.loads(data))
        return {
            "name": name, "origin": key.origin, "time": time, **blob("entry", data), "leaf_hash": leaf_hash(data).hex(),
            "messages": texts, "digests": [personal(text).hex() for text in texts],
        }

    honest = json.loads(binding(NOON, LOG.origin, **base))
    signature = bytes.fromhex(honest["signature"][2:])
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    signed = lambda *rsv_: {"signature": "0x" + rsv(*rsv_).hex()}
    other = binding(NOON, PATHED.origin, **base)
    invalid = [
        ("a high s", base | signed(r, ORDER - s, 55 - v)),
        ("v of the other point", base | signed(r, s, 55 - v)),
        ("v of 0", base | signed(r, s, v - 27)),
        ("v of 29", base | signed(r, s, 29)),
        ("v of EIP-155", base | signed(r, s, v + 10)),
        ("r of 0", base | signed(0, s, v)),
        ("s of 0", base | signed(r, 0, v)),
        ("r of the order", base | signed(ORDER, s, v)),
        ("r of no point", base | signed(5, s, v)),
        ("r and s of 2^256 - 1", base | signed(2**256 - 1, 2**256 - 1, v)),
        ("signed for another log", base | {"signature": json.loads(other)["signature"]}),
        ("signed by another", base | {"wallet": ALICE.address, "scheme": "eip191", "signature": json.loads(
            binding(NOON, LOG.origin, **base | {"wallet": BOB}))["signature"]}),
        ("signed for another key", base | {"key_id": "00" * 32, "signature": honest["signature"]}),
        ("signed on another nonce", base | {"previous": "00" * 32, "signature": honest["signature"]}),
        ("signed on another chain", base | {"chain_id": 2, "signature": honest["signature"]}),
        ("signed to release", base | {"signature": json.loads(
            binding(NOON, LOG.origin, **base | {"action": "release"}))["signature"]}),
        ("a move that the taker did not sign", base | {"action": "move", "to": BOB, "to_signature": honest["signature"]}),
        ("expired", base | {"issued_at": NOON - 60, "expires_at": NOON}),
        ("issued 301 s ahead", base | {"issued_at": NOON + 301, "expires_at": NOON + 400}),
        ("holds over a day", base | {"issued_at": NOON - 86_400, "expires_at": NOON + 1}),
        ("never holds", base | {"issued_at": NOON + 10, "expires_at": NOON + 10}),
        ("ends before it begins", base | {"issued_at": NOON + 10, "expires_at": NOON + 9}),
    ]
    text = binding(NOON, LOG.origin, **base).decode()
    moved = binding(NOON, LOG.origin, **base | {"action": "move", "to": BOB}).decode()
    asked = binding(NOON, LOG.origin, **base | contract).decode()
    burnt = binding(NOON, LOG.origin, **base | {"action": "burn"}).decode()
    malformed = [
        ("an unknown action", text.replace('"link"', '"bind"')),
        ("no action", text.replace('"action":"link",', "")),
        ("no key id", text.replace(f'"key_id":"{KEY}",', "")),
        ("no previous", text.replace(f'"previous":"{first}",', "")),
        ("no wallet", text.replace(f'"wallet":"{ALICE.address}",', "")),
        ("a checksummed wallet", text.replace(ALICE.address, checksummed(ALICE.address))),
        ("a link with a taker", text.replace('"chain_id"', f'"to":"{BOB.address}","chain_id"')),
        ("a move without a taker", moved.replace(f'"to":"{BOB.address}",', "")),
        ("a move without the taker's signature", moved[: moved.index(',"to_scheme"')] + "}"),
        ("a burn with a wallet", burnt[:-1] + f',"wallet":"{ALICE.address}"' + "}"),
        ("chain 0", text.replace('"chain_id":1,', '"chain_id":0,')),
        ("a chain as text", text.replace('"chain_id":1,', '"chain_id":"1",')),
        ("an expiry in the year 10000", text.replace(f'"expires_at":{NOON + 3_600}', '"expires_at":253402300800')),
        ("an unknown scheme", text.replace("eip191", "eip6492")),
        ("a block with eip191", text.replace('"signature"', '"block":1,"signature"')),
        ("no block with eip1271", asked.replace('"block":19,', "")),
        ("no block hash with eip1271", asked.replace(f'"block_hash":"{contract["block_hash"]}",', "")),
        ("a signature of 64 bytes", text.replace(honest["signature"], honest["signature"][:-2])),
        ("a signature of 66 bytes", text.replace(honest["signature"], honest["signature"] + "00")),
        ("a signature of half a byte more", asked.replace('"}', '0"}')),
        ("a signature without 0x", text.replace('"signature":"0x', '"signature":"')),
        ("a signature in upper case", text.replace(honest["signature"][2:], honest["signature"][2:].upper())),
        ("a contract's signature of 2,049 bytes", asked.replace(contract["signature"], "0x" + "ab" * 2_049)),
        ("fields swapped", text.replace(f'"key_id":"{KEY}","previous":"{first}"', f'"previous":"{first}","key_id":"{KEY}"')),
        ("a field more", text[:-1] + ',"x":1}'),
    ]
    assert all(changed not in (text, moved, asked, burnt) for _, changed in malformed)

    def history(*steps):
        """Entries of one key, each following the one before unless it says otherwise."""
        entries_, previous = [], first
        for step in steps:
            entries_.append(binding(NOON, LOG.origin, **{"key_id": KEY, "previous": previous} | step))
            previous = leaf_hash(entries_[-1]).hex()
        return [e.decode() for e in entries_]

    link, release = {"wallet": ALICE}, {"action": "release", "wallet": ALICE}
    move, burn = {"action": "move", "wallet": ALICE, "to": BOB}, {"action": "burn"}
    again = {"previous": first}
    valid_histories = [
        ("nothing", [], None),
        ("linked", [link], ALICE.address),
        ("released", [link, release], None),
        ("linked by another after release", [link, release, {"wallet": BOB}], BOB.address),
        ("moved", [link, move], BOB.address),
        ("moved and back", [link, move, {"action": "move", "wallet": BOB, "to": ALICE}], ALICE.address),
        ("burnt", [link, burn], None),
        ("burnt before it was ever bound", [burn], None),
    ]
    broken_histories = [
        ("linked twice", [link, {"wallet": BOB}]),
        ("linked twice by one", [link, link]),
        ("a link replayed", [link, release, link | again]),
        ("on entry 0 after a link", [link, release | again]),
        ("released by another", [link, {"action": "release", "wallet": BOB}]),
        ("released though free", [release]),
        ("moved by another", [link, {"action": "move", "wallet": BOB, "to": ALICE}]),
        ("moved though free", [move]),
        ("moved to itself", [link, {"action": "move", "wallet": ALICE, "to": ALICE}]),
        ("released after a move", [link, move, release]),
        ("linked though burnt", [burn, link]),
        ("burnt twice", [burn, burn]),
        ("released though burnt", [link, burn, release]),
    ]
    return {
        "good": [shown(*case) for case in good],
        "invalid": [
            {"name": n, "origin": LOG.origin, "time": NOON, **blob("entry", binding(NOON, LOG.origin, **fields))}
            for n, fields in invalid
        ],
        "malformed": [{"name": n, "entry": changed} for n, changed in malformed],
        "histories": [
            {"name": n, "first": first, "entries": history(*steps), "holder": holder}
            for n, steps, holder in valid_histories
        ],
        "histories_broken": [
            {"name": n, "first": first, "entries": history(*steps)} for n, steps in broken_histories
        ],
    }


@vectors
def totals():
    """Totals: leaves, and a wallet's proof, good and bent (sections 4.4 and 4.5)."""
    wallets = sorted("0x" + drawn(f"totals wallet {i}", 20).hex() for i in range(6))
    absent = [
        "0x" + "00" * 20, f"0x{int(wallets[2], 16) + 1:040x}", "0x" + "ff" * 20,
    ]
    called = lambda time, i, wallet, **more: usage(time, **{
        "receipt": receipt_commitment(receipt_id(f"totals {i}")).hex(), "key_id": KEY, "wallet": wallet, "link": "bound",
        "source": "proxy", "provider": "openai", "input": 10 + i, "cache_read": i, "output": 7, "outcome": "complete",
    } | more)
    start = log_entry(NOON, LOG, rules=2)
    entries_ = [start]
    for i in range(20):
        source = {"source": "custom"} if i % 3 == 1 else {}
        bare = {"input": None, "cache_read": None, "output": None, "outcome": "unmetered"} if i == 7 else {}
        claimed = {"link": "claimed"} if i == 11 else {}
        entries_.append(called(NOON + i, i, wallets[i * i % 6], **source, **bare, **claimed))

    def totals_entry(entries_, size, time, **changed):
        leaves = totals_leaves(entries_[:size])
        root = tree_head([leaf_hash(leaf) for leaf in leaves]).hex()
        return entry("totals", time, **{"size": size, "count": len(leaves), "root": root} | changed)

    def prove(wallet, entries_, at=None, leaves=None):
        """The proof under all of the entries, `at` being the totals entry's index."""
        hashes_ = [leaf_hash(e) for e in entries_]
        item = lambda i: {"index": i, "entry": entries_[i].decode(), "hashes": [b64(h) for h in audit_path(i, hashes_)]}
        size = json.loads(entries_[at])["size"] if at else 0
        leaves = totals_leaves(entries_[:size]) if leaves is None else leaves
        named = bytes.fromhex(wallet[2:])
        low = sum(leaf[1:21] < named for leaf in leaves)
        high = sum(leaf[1:21] <= named for leaf in leaves)
        nodes = [leaf_hash(leaf) for leaf in leaves]
        shown = range(max(low - 1, 0), min(high + 1, len(leaves)))
        following = size if at and size < at else size + 1
        return {
            "checkpoint": seal(checkpoint_text(LOG.origin, len(entries_), tree_head(hashes_)), LOG),
            "log": item(0),
            "totals": item(at) if at else None,
            "next": item(following) if following < len(entries_) else None,
            "last": item(len(entries_) - 1),
            "leaves": [
                {"index": i, "leaf": leaves[i].hex(), "hashes": [b64(h) for h in audit_path(i, nodes)]} for i in shown
            ],
        }

    def good(name, wallet, entries_, at=None):
        size = json.loads(entries_[at])["size"] if at else 0
        own = [leaf.hex() for leaf in totals_leaves(entries_[:size]) if leaf[1:21].hex() == wallet[2:]]
        return {"name": name, "vkey": LOG.vkey, "wallet": wallet, "proof": prove(wallet, entries_, at), "leaves": own}

    whole = [*entries_, totals_entry(entries_, 21, NOON + 600)]
    behind = [*entries_, totals_entry(entries_, 17, NOON + 600)]
    idle = [*whole, called(NOON + 90_000, 21, wallets[0]), called(NOON + 91_200, 22, wallets[1])]
    nobody = [start, totals_entry([start], 1, NOON + 600)]
    one = [*entries_[:2], totals_entry(entries_, 2, NOON + 600)]
    proofs_ = [good(f"wallet {i}", wallet, whole, 21) for i, wallet in enumerate(wallets)]
    proofs_ += [good(f"absent {i}", wallet, whole, 21) for i, wallet in enumerate(absent)]
    proofs_ += [
        good("totals behind the entries", wallets[1], behind, 21),
        good("idle for a day", wallets[1], idle, 21),
        good("no totals yet", wallets[1], entries_[:9]),
        good("no entry but the first", wallets[1], [start]),
        good("an empty tree", wallets[1], nobody, 1),
        good("one leaf, present", json.loads(entries_[1])["wallet"], one, 2),
        good("one leaf, absent below", absent[0], one, 2),
        good("one leaf, absent above", absent[2], one, 2),
    ]
    two = next(w for w in wallets[1:-1] if sum(leaf[1:21].hex() == w[2:] for leaf in totals_leaves(entries_)) == 2)
    honest = prove(two, whole, 21)

    def bent(name, change, wallet=two, proof=None):
        copy = json.loads(json.dumps(honest if proof is None else proof))
        change(copy)
        return {"name": name, "vkey": LOG.vkey, "wallet": wallet, "proof": copy}

    leaves = totals_leaves(entries_)
    swapped = [*leaves[:2], leaves[3], leaves[2], *leaves[4:]]
    raised = [leaf[:37] + b"\xff" + leaf[38:] if leaf[1:21].hex() == two[2:] else leaf for leaf in leaves]
    late = [*whole, called(NOON + 700, 21, wallets[0]), called(NOON + 1_901, 22, wallets[1])]
    never = [*entries_[:2], called(NOON + 1_201, 21, wallets[0])]
    rooted = lambda changed: [*entries_, totals_entry(entries_, 21, NOON + 600, root=tree_head([leaf_hash(x) for x in changed]).hex())]
    wrong = [
        bent("a total raised", lambda p: p["leaves"][1].update(leaf=raised[leaves.index(bytes.fromhex(p["leaves"][1]["leaf"]))].hex())),
        bent("one of its leaves left out", lambda p: p["leaves"].pop(1)),
        bent("the neighbour before left out", lambda p: p["leaves"].pop(0)),
        bent("the neighbour after left out", lambda p: p["leaves"].pop()),
        bent("no leaves", lambda p: p.update(leaves=[])),
        bent("a leaf twice", lambda p: p["leaves"].insert(1, p["leaves"][1])),
        bent("a leaf under another index", lambda p: p["leaves"][1].update(index=p["leaves"][1]["index"] + 1)),
        bent("another wallet's leaves", lambda p: None, wallet=wallets[5]),
        bent("a hash left out", lambda p: p["leaves"][1]["hashes"].pop()),
        bent("a hash more", lambda p: p["leaves"][1]["hashes"].append(b64(bytes(32)))),
        bent("leaves in another order", lambda p: None, wallet="0x" + leaves[2][1:21].hex(),
             proof=prove("0x" + leaves[2][1:21].hex(), rooted(swapped), 21, swapped)),
        bent("another log's checkpoint", lambda p: p.update(
            checkpoint=seal(checkpoint_text(PATHED.origin, 22, bytes(32)), PATHED))),
        bent("another root", lambda p: p.update(checkpoint=seal(checkpoint_text(LOG.origin, 22, bytes(32)), LOG))),
        bent("another entry as entry 0", lambda p: p.update(log=p["last"])),
        bent("another entry as the last", lambda p: p.update(last=p["log"])),
        bent("another entry as totals", lambda p: p.update(totals=p["log"])),
        bent("no totals but leaves", lambda p: p.update(totals=None)),
        bent("the next entry left out", lambda p: p.update(next=None), proof=prove(two, behind, 21)),
        bent("another next entry", lambda p: p.update(next=p["last"]), proof=prove(two, behind, 21)),
        bent("overdue", lambda p: None, proof=prove(two, late, 21)),
        bent("overdue from the start", lambda p: None, proof=prove(two, never)),
        bent("totals over more than there was", lambda p: None, wallet=wallets[1], proof=prove(
            wallets[1], [start, entry("totals", NOON + 600, size=2, count=0, root=sha256(b"").hex())], 1)),
        bent("a count without leaves", lambda p: None, wallet=wallets[1], proof=prove(
            wallets[1], [start, entry("totals", NOON + 600, size=1, count=1, root=sha256(b"").hex())], 1)),
        bent("rules of 1", lambda p: None, wallet=wallets[1], proof=prove(wallets[1], [log_entry(NOON, LOG)])),
    ]
    example = totals_leaf(wallets[0], "custom", [3, 1, 2, 3, 4, 2**64 - 1, 5, 2**53 - 1])
    put = lambda at, data: (example[:at] + data + example[at + len(data):]).hex()
    number = lambda value: value.to_bytes(8, "big")
    return {
        "leaves": [
            {"name": f"leaf {i}", "leaf": leaf.hex(), "hash": leaf_hash(leaf).hex(), "wallet": "0x" + leaf[1:21].hex(),
             "source": ["proxy", "custom"][leaf[21] - 1],
             "numbers": [str(int.from_bytes(leaf[22 + 8 * n : 30 + 8 * n], "big")) for n in range(8)]}
            for i, leaf in enumerate([*leaves, example])
        ],
        "leaves_bad": [
            {"name": "another format", "leaf": put(0, b"\2")},
            {"name": "source 0", "leaf": put(21, b"\0")},
            {"name": "source 3", "leaf": put(21, b"\3")},
            {"name": "no records", "leaf": put(22, number(0))},
            {"name": "one record at two places", "leaf": put(22, number(1))},
            {"name": "two records at one place", "leaf": put(70, number(2**53 - 1))},
            {"name": "more records than places", "leaf": put(78, number(6))},
            {"name": "the last before the first", "leaf": put(78, number(4))},
            {"name": "an index of 2^53", "leaf": put(78, number(2**53))},
        ],
        "entries": [{"name": "an example", "entry": whole[21].decode(), "size": 21, "count": len(leaves),
                     "root": json.loads(whole[21])["root"]}],
        "entries_bad": [
            {"name": n, "entry": entry("totals", 5, **fields).decode()}
            for n, fields in [
                ("size 0", {"size": 0, "count": 0, "root": "00" * 32}),
                ("no size", {"count": 0, "root": "00" * 32}),
                ("no count", {"size": 1, "root": "00" * 32}),
                ("no root", {"size": 1, "count": 0}),
                ("a root in upper case", {"size": 1, "count": 0, "root": "AA" * 32}),
                ("a field more", {"size": 1, "count": 0, "root": "00" * 32, "x": 1}),
                ("a size of 2^53", {"size": 2**53, "count": 0, "root": "00" * 32}),
                ("fields swapped", {"count": 0, "size": 1, "root": "00" * 32}),
            ]
        ],
        "proofs": proofs_,
        "proofs_bad": wrong,
    }


def formula_leaf(i):
    """Leaf i of the trees below: the leaf hash of i as 4 bytes big-endian."""
    return leaf_hash(i.to_bytes(4, "big"))


@vectors
def trees():
    """Roots and tiles over entries that are their index as 4 bytes big-endian (section 5)."""
    leaves = [formula_leaf(i) for i in range(66_000)]
    sizes = [*range(301), 511, 512, 513, 767, 768, 1023, 1024, 1025, 65_279, 65_280, 65_535, 65_536, 65_537, 66_000]
    tiles = []
    for size in (1, 2, 255, 256, 257, 511, 512, 513, 66_000):
        made = list(hash_tiles(leaves[:size]))
        if size == 66_000:
            made = made[:2] + [t for t in made if not t[0].startswith("tile/0/") or ".p/" in t[0]]
        tiles += [{"size": size, "path": path, "sha256": sha256(data).hex()} for path, data in made]
    return {
        "roots": [{"size": size, "root": tree_head(leaves[:size]).hex()} for size in sizes],
        "tiles": tiles,
    }


def flipped(data, bit=0):
    return bytes([data[0] ^ 1 << bit]) + data[1:]


def bent(proof, other):
    """(name, proof) of ways to bend the first, middle or last hash of a proof, or to have one more."""
    for i in sorted({0, len(proof) // 2, len(proof) - 1} & set(range(len(proof)))):
        one = proof[i]
        yield f"hash {i} changed", proof[:i] + [flipped(one, i % 8)] + proof[i + 1 :]
        yield f"hash {i} left out", proof[:i] + proof[i + 1 :]
        yield f"hash {i} twice", proof[:i] + [one] + proof[i:]
        if i:
            yield f"hashes {i - 1} and {i} swapped", proof[: i - 1] + [one, proof[i - 1]] + proof[i + 1 :]
    if proof:
        yield "no hashes", []
    yield "a hash more before", [other] + proof
    yield "a hash more behind", proof + [other]


@vectors
def proofs():
    """Inclusion and consistency proofs (section 5.1), over entries that are their index as 4 bytes
    big-endian; above 1,000 entries index mod 67."""
    small = [formula_leaf(i) for i in range(1000)]
    other = drawn("other hash")

    def of(size):
        return small[:size] if size <= len(small) else Wide(0, size)

    def inclusion(index, size):
        leaves = of(size)
        return {
            "index": index, "size": size, "leaf": leaves[index].hex(), "root": tree_head(leaves).hex(),
            "proof": [h.hex() for h in audit_path(index, leaves)],
        }

    def consistency(old, size):
        leaves = of(size)
        proof = consistency_proof(old, leaves) if old else []
        return {
            "from": old, "to": size, "from_root": tree_head(leaves[:old]).hex(), "to_root": tree_head(leaves).hex(),
            "proof": [h.hex() for h in proof],
        }

    wide = [2**16 + 1, 2**32, 2**40 - 1, 2**53 - 1]
    indices = [(i, n) for n in range(1, 9) for i in range(n)] + [(0, 257), (255, 257), (256, 257), (500, 1000)]
    indices += [(i, n) for n in wide for i in (0, n // 3, n - 1)]
    sizes = [(m, n) for n in range(1, 9) for m in range(n + 1)] + [(256, 257), (255, 1000), (512, 1000), (999, 1000)]
    sizes += [(m, n) for n in wide for m in (1, n // 3, 1 << n.bit_length() - 2, n - 1)]

    inclusion_bad, consistency_bad = [], []
    for index, size in [(0, 1), (2, 7), (6, 7), (3, 8), (2**39, 2**40 - 1)]:
        good = inclusion(index, size)
        proof = [bytes.fromhex(h) for h in good["proof"]]
        name = f"{index} of {size}"
        inclusion_bad += [good | {"name": f"{name}: {n}", "proof": [h.hex() for h in p]} for n, p in bent(proof, other)]
        inclusion_bad += [
            good | {"name": f"{name}: another leaf", "leaf": other.hex()},
            good | {"name": f"{name}: another root", "root": other.hex()},
            good | {"name": f"{name}: the index beside", "index": index ^ 1},
            good | {"name": f"{name}: index = size", "index": size},
            good | {"name": f"{name}: index + size", "index": index + size},
            good | {"name": f"{name}: an index far outside", "index": 2**53 - 1},
            good | {"name": f"{name}: size 0", "size": 0},
            good | {"name": f"{name}: twice the size", "size": 2 * size},
        ]
    for old, size in [(1, 2), (3, 7), (4, 7), (6, 7), (8, 8), (2**39 + 1, 2**40 - 1)]:
        good = consistency(old, size)
        proof = [bytes.fromhex(h) for h in good["proof"]]
        name = f"{old} to {size}"
        consistency_bad += [good | {"name": f"{name}: {n}", "proof": [h.hex() for h in p]} for n, p in bent(proof, other)]
        consistency_bad += [
            good | {"name": f"{name}: another older root", "from_root": other.hex()},
            good | {"name": f"{name}: another newer root", "to_root": other.hex()},
            good | {"name": f"{name}: from 0", "from": 0},
            good | {"name": f"{name}: descending", "from": size + 1},
            good | {"name": f"{name}: twice the size", "to": 2 * size + 2},
            good | {"name": f"{name}: to 0", "to": 0},
        ]
    two = consistency(2, 2)
    consistency_bad.append(two | {"name": "2 to 1, one root", "to": 1})
    empty = consistency(0, 7)
    consistency_bad += [
        empty | {"name": "from 0: a hash", "proof": [other.hex()]},
        empty | {"name": "from 0: another older root", "from_root": other.hex()},
    ]
    return {
        "inclusion_good": [inclusion(i, n) for i, n in indices],
        "inclusion_bad": inclusion_bad,
        "consistency_good": [consistency(m, n) for m, n in sizes],
        "consistency_bad": consistency_bad,
    }


@vectors
def tlog_proofs():
    """Offline proofs in C2SP's tlog-proof format (section 7.1)."""
    leaves = [formula_leaf(i) for i in range(300)]

    def made(index, size, extra=None, cosigners=()):
        path, root = audit_path(index, leaves[:size]), tree_head(leaves[:size])
        text = checkpoint_text(LOG.origin, size, root)
        note = seal(text, LOG) + "".join(cosignature(text, c, 1_760_000_100) for c in cosigners)
        return {
            "vkey": LOG.vkey, "leaf": leaves[index].hex(), "text": tlog_proof(index, path, note, extra),
            "index": index, "size": size, "root": root.hex(), "extra": None if extra is None else b64(extra),
            "proof": [h.hex() for h in path],
        }

    good = [
        {"name": name, **proof}
        for name, proof in [
            ("the only entry", made(0, 1)),
            ("one of seven", made(2, 7)),
            ("the last of seven", made(6, 7)),
            ("one of 300", made(255, 300)),
            ("with extra data", made(2, 7, b"any bytes \0\xff")),
            ("with empty extra data", made(2, 7, b"")),
            ("cosigned", made(2, 7, cosigners=[WITNESS])),
        ]
    ]
    text = made(2, 7)["text"]
    lines = text.split("\n")
    one, checkpoint = lines[2], text.split("\n\n", 1)[1]
    forms = {
        "empty": "",
        "another version": text.replace("@v1", "@v2"),
        "a byte order mark": "\ufeff" + text,
        "an empty line before": "\n" + text,
        "carriage returns": text.replace("\n", "\r\n"),
        "no index": text.replace("index 2\n", ""),
        "index without a number": text.replace("index 2", "index "),
        "a leading zero": text.replace("index 2", "index 02"),
        "a sign": text.replace("index 2", "index +2"),
        "a negative index": text.replace("index 2", "index -2"),
        "an index of 2^53": text.replace("index 2", f"index {2**53}"),
        "a fraction": text.replace("index 2", "index 2.0"),
        "two spaces": text.replace("index 2", "index  2"),
        "a space at the end": text.replace("index 2", "index 2 "),
        "extra behind the index": text.replace("index 2\n", "index 2\nextra AAAA\n"),
        "extra twice": text.replace("index", "extra AAAA\nextra AAAA\nindex"),
        "extra without padding": text.replace("index", "extra AA\nindex"),
        "extra url-safe": text.replace("index", "extra _-_-\nindex"),
        "a hash of 31 bytes": text.replace(one, b64(bytes(31))),
        "a hash of 33 bytes": text.replace(one, b64(bytes(33))),
        "a hash without padding": text.replace(one, one.rstrip("=")),
        "a pad bit set": text.replace(one, stray_bit(one)),
        "a hash in hex": text.replace(one, base64.b64decode(one).hex()),
        "54 hashes": text.replace(one, "\n".join([one] * 52)),
        "no empty line": text.replace("\n\n" + LOG.origin, "\n" + LOG.origin),
        "no checkpoint": text.split("\n\n")[0],
    }
    other = checkpoint_text(LOG.origin, 7, drawn("other root"))
    proof = audit_path(2, leaves[:7])

    def unproven(note, index=2, path=proof, leaf=leaves[2], key=LOG):
        return {"vkey": key.vkey, "leaf": leaf.hex(), "text": tlog_proof(index, path, note)}

    bad = {
        "another leaf": unproven(checkpoint, leaf=leaves[3]),
        "another index": unproven(checkpoint, index=3),
        "an index outside": unproven(checkpoint, index=7),
        "a hash left out": unproven(checkpoint, path=proof[:-1]),
        "a hash more": unproven(checkpoint, path=[*proof, proof[0]]),
        "another root, signed": unproven(seal(other, LOG)),
        "a smaller tree, signed": unproven(seal(checkpoint_text(LOG.origin, 6, tree_head(leaves[:6])), LOG)),
        "another key": unproven(checkpoint, key=PATHED),
        "signed by a witness only": unproven(
            seal(checkpoint_text(LOG.origin, 7, tree_head(leaves[:7])), WITNESS),
        ),
        "a changed checkpoint": unproven(checkpoint.replace("\n7\n", "\n8\n")),
        "an extension line": unproven(seal(checkpoint_text(LOG.origin, 7, tree_head(leaves[:7])) + "x\n", LOG)),
        "no checkpoint": unproven(""),
        "a receipt for a checkpoint": unproven(seal(receipt_text(LOG.origin, 7, tree_head(leaves[:7])), LOG)),
    }
    return {
        "good": good,
        "forms_bad": [{"name": n, "text": t} for n, t in forms.items()],
        "unproven": [{"name": n, **case} for n, case in bad.items()],
    }


SECOND = Key("witness.example.net/w2", drawn("second witness"))
THIRD = Key("third.example", drawn("third witness"))
POST_QUANTUM = "pq.example/w"


def post_quantum_vkey(material=None):
    material = drawn("ml-dsa-44", 1312) if material is None else material
    hashed = sha256(POST_QUANTUM.encode() + b"\n\x06" + material)[:4]
    return vkey(POST_QUANTUM, material, kind=6, hashed=hashed.hex())


@vectors
def cosignatures():
    """Witnesses' keys and cosignatures (section 6.1)."""
    text = checkpoint_text(LOG.origin, 7, drawn("cosigned root"))
    signed = seal(text, LOG)
    now = 1_760_000_100
    key = WITNESS
    right = cosignature(text, key, now)
    message = cosigned_message(text, now)
    honest = key.sign(message)
    s = int.from_bytes(honest[32:], "little")
    nonce = int.from_bytes(drawn("cosigner's nonce"), "little") % L
    hashed = cosigner_hash(key.origin, key.public)

    def line_of(data):
        return signature_line(key.origin, hashed, data)

    stamp = now.to_bytes(8, "big")
    post_quantum = signature_line(
        POST_QUANTUM, sha256(POST_QUANTUM.encode() + b"\n\x06" + drawn("ml-dsa-44", 1312))[:4], drawn("pq", 2428)
    )
    verdicts = {
        "not cosigned": (signed, None),
        "cosigned": (signed + right, now),
        "before the log's line": (f"{text}\n{right}{signed[len(text) + 1:]}", now),
        "twice, the newer counts": (signed + right + cosignature(text, key, now - 5), now),
        "twice, the newer behind": (signed + cosignature(text, key, now - 5) + right, now),
        "at second 0": (signed + cosignature(text, key, 0), 0),
        "at second 2^53 - 1": (signed + cosignature(text, key, 2**53 - 1), 2**53 - 1),
        "another witness only": (signed + cosignature(text, SECOND, now), None),
        "beside another witness": (signed + cosignature(text, SECOND, now) + right, now),
        "beside a broken line of another witness": (
            signed + signature_line(SECOND.origin, cosigner_hash(SECOND.origin, SECOND.public), bytes(72)) + right, now,
        ),
        "beside an ML-DSA-44 line": (signed + post_quantum + right, now),
        "our name with another hash": (signed + signature_line(key.origin, drawn("hash", 4), bytes(72)), None),
        "another name with our hash": (signed + signature_line("witness.example.net/w9", hashed, bytes(72)), None),
        "a plain signature by the same key": (signed + seal(text, key)[len(text) + 1:], None),
        "a nonce of one's own": (
            signed + cosignature(text, key, now, key.forge(pack(times(nonce, BASE)), nonce, message)), now,
        ),
    }
    spoilt = {
        "over another text": signed + cosignature(checkpoint_text(LOG.origin, 8, drawn("cosigned root")), key, now),
        "of another time": signed + line_of((now + 1).to_bytes(8, "big") + honest),
        "a broken one beside a good one": signed + right + line_of(stamp + bytes(64)),
        "a broken one before a good one": signed + line_of(stamp + bytes(64)) + right,
        "plainly signed": signed + line_of(stamp + key.sign(text.encode())),
        "time without its line": signed + line_of(stamp + key.sign(f"cosignature/v1\n{text}".encode())),
        "of second 2^53": signed + cosignature(text, key, 2**53),
        "of second 2^63": signed + cosignature(text, key, 2**63),
        "71 bytes": signed + line_of(stamp + honest[:63]),
        "73 bytes": signed + line_of(stamp + honest + b"\0"),
        "64 bytes, no time": signed + line_of(honest),
        "a time only": signed + line_of(stamp),
        "one byte": signed + line_of(b"\0"),
        "S + L": signed + cosignature(text, key, now, honest[:32] + (s + L).to_bytes(32, "little")),
        "R neutral": signed + cosignature(text, key, now, key.forge(raw_key(1, 0), 0, message)),
        "R neutral, y = 1 + p": signed + cosignature(text, key, now, key.forge(raw_key(1 + P, 0), 0, message)),
        "R of small order": signed + cosignature(text, key, now, key.forge(pack(TORSION[1]), 0, message)),
        "R with torsion": signed
        + cosignature(text, key, now, key.forge(pack(add(times(nonce, BASE), TORSION[1])), nonce, message)),
    }
    ours = cosigner_vkey(key)
    point = times(key.scalar, BASE)

    def witness_key(public, name=key.origin):
        return vkey(name, public, kind=4, hashed=cosigner_hash(name, public).hex())

    bad_keys = {
        "of type 1": key.vkey,
        "another name": ours.replace("/w1", "/w2"),
        "a hash of type 1": vkey(key.origin, key.public, kind=4),
        "hash in upper case": ours.replace(hashed.hex(), hashed.hex().upper()),
        "a space in the name": witness_key(key.public, "witness example"),
        "a no-break space in the name": witness_key(key.public, "witness\u00a0example"),
        "no name": witness_key(key.public, ""),
        "31 bytes": witness_key(key.public[:31]),
        "33 bytes": witness_key(key.public + b"\0"),
        "small order": witness_key(pack(TORSION[1])),
        "neutral": witness_key(raw_key(1, 0)),
        "with torsion": witness_key(pack(add(point, TORSION[4]))),
        "not canonical": witness_key(raw_key(next(y for y in range(2, 19) if x_of(y, 0) is not None) + P, 0)),
        "empty": "",
        "no key": f"{key.origin}+{hashed.hex()}+",
        "ML-DSA-44 with another hash": post_quantum_vkey().replace("pq.", "pc."),
    }
    assert hashed.hex() != hashed.hex().upper()
    named = Key("Wei\u00df~witness", drawn("named"))
    return {
        "keys_good": [
            {"seed": k.seed.hex(), "name": k.origin, "vkey": cosigner_vkey(k)} for k in (WITNESS, SECOND, THIRD, named)
        ],
        "keys_other": [
            {"name": "ML-DSA-44", "vkey": post_quantum_vkey()},
            {"name": "a type of the future", "vkey": vkey("future.example", b"x", kind=0x77, hashed="01234567")},
        ],
        "keys_bad": [{"name": n, "vkey": v} for n, v in bad_keys.items()],
        "cosigned": [
            {"seed": k.seed.hex(), "name": k.origin, "text": text, "time": t, "line": cosignature(text, k, t)}
            for k, t in ((WITNESS, now), (SECOND, 0), (named, 2**53 - 1))
        ],
        "verdicts": [{"name": n, "vkey": ours, "note": note, "time": t} for n, (note, t) in verdicts.items()],
        "spoilt": [{"name": n, "vkey": ours, "note": note} for n, note in spoilt.items()],
    }


@vectors
def policies():
    """Trust policies, and what they make of a checkpoint (section 6.2)."""
    keys_ = [WITNESS, SECOND, THIRD, *(Key(f"w{i}.example", drawn(f"witness {i}")) for i in range(3))]
    w1, w2, w3, w4, w5, w6 = (cosigner_vkey(k) for k in keys_)
    a, b, c = f"witness a {w1}\n", f"witness b {w2}\n", f"witness c {w3}\n"
    example = (
        f"log {LOG.vkey}\n\nwitness X1 {w1}\nwitness X2 {w2}\nwitness X3 {w3}\ngroup X-witnesses 2 X1 X2 X3\n\n"
        f"witness Y1 {w4}\nwitness Y2 {w5}\nwitness Y3 {w6}\ngroup Y-witnesses any Y1 Y2 Y3\n\n"
        "group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n"
    )
    abc = a + b + c
    good = {
        "the specification's": (example, 6, lambda s: len(s & {0, 1, 2}) >= 2 and bool(s & {3, 4, 5})),
        "none, nothing known": ("quorum none\n", 0, lambda s: True),
        "none, witnesses known": (f"{abc}quorum none\n", 3, lambda s: True),
        "one witness": (f"{abc}quorum b\n", 3, lambda s: 1 in s),
        "any": (f"{abc}group g any a b c\nquorum g\n", 3, lambda s: bool(s)),
        "all": (f"{abc}group g all a b c\nquorum g\n", 3, lambda s: len(s) == 3),
        "2 of 3": (f"{abc}group g 2 a b c\nquorum g\n", 3, lambda s: len(s) >= 2),
        "a group of one": (f"{abc}group g 1 c\nquorum g\n", 3, lambda s: 2 in s),
        "a group in a group": (f"{abc}group g any a b\ngroup h all g c\nquorum h\n", 3, lambda s: 2 in s and len(s) > 1),
        "a group of no consequence": (f"{abc}group g any a b\nquorum c\n", 3, lambda s: 2 in s),
        "names that are words": (
            f"witness all {w1}\nwitness any {w2}\nwitness 1 {w3}\ngroup 2 2 all any 1\nquorum 2\n", 3, lambda s: len(s) >= 2,
        ),
        "quorum before other lines": (f"{a}quorum a\n{b}log {LOG.vkey}\n", 2, lambda s: 0 in s),
        "URLs": (
            f"log {LOG.vkey} https://log.example.org/\nwitness a {w1} https://witness.example.net/w1\nquorum a\n",
            1, lambda s: 0 in s,
        ),
        "spaces, tabs, comments": (
            f"# a comment\n\t # another, \u00fc\n \t \n  witness\ta  {w1}\t\n\tquorum \t a \n", 1, lambda s: 0 in s,
        ),
        "a witness of another type": (
            f"witness pq {post_quantum_vkey()}\n{a}group g any pq a\nquorum g\n", 2, lambda s: bool(s),
        ),
        "a log of another type": (f"log {post_quantum_vkey()}\nquorum none\n", 0, lambda s: True),
        "two logs": (f"log {LOG.vkey}\nlog {PATHED.vkey}\nquorum none\n", 0, lambda s: True),
        "names in other alphabets": (
            f"witness K {w1}\nwitness \u212a {w2}\ngroup \u043a all K \u212a\nquorum \u043a\n", 2, lambda s: len(s) == 2,
        ),
    }
    not_utf8 = f"witness \xff {w1}\nquorum \xff\n".encode("latin-1")
    bad = {
        "empty": "",
        "no quorum": abc,
        "no newline at the end": "quorum none",
        "no newline after a comment": "quorum none\n# why",
        "two quorums": "quorum none\nquorum none\n",
        "an unknown word": "log-list x\nquorum none\n",
        "a word in capitals": "Quorum none\n",
        "quorum of nothing": f"{a}quorum\n",
        "quorum of two": f"{abc}quorum a b\n",
        "an unknown quorum": f"{a}quorum b\n",
        "a quorum that comes later": f"quorum a\n{a}",
        "a group of nobody": f"{abc}group g any\nquorum g\n",
        "a group without a threshold": f"{abc}group g a b c\nquorum g\n",
        "a member that comes later": f"{a}group g any a b\n{b}quorum g\n",
        "a group in itself": f"{a}group g any g\nquorum g\n",
        "none in a group": f"{a}group g any a none\nquorum g\n",
        "a witness called none": f"witness none {w1}\nquorum none\n",
        "a group called none": f"{a}group none any a\nquorum none\n",
        "a name twice": f"{a}witness a {w2}\nquorum a\n",
        "a group's name taken": f"{abc}group a any b\nquorum a\n",
        "a member twice": f"{abc}group g 2 a a\nquorum g\n",
        "a member of two groups": f"{abc}group g any a b\ngroup h all g a\nquorum h\n",
        "a threshold of 0": f"{abc}group g 0 a b\nquorum g\n",
        "a threshold above all": f"{abc}group g 3 a b\nquorum g\n",
        "a threshold with a zero": f"{abc}group g 01 a b\nquorum g\n",
        "a negative threshold": f"{abc}group g -1 a b\nquorum g\n",
        "a key twice": f"{a}witness b {w1}\nquorum a\n",
        "a key under two names": f"{a}witness b {cosigner_vkey(Key('x.example', WITNESS.seed))}\nquorum a\n",
        "a log twice": f"log {LOG.vkey}\nlog {LOG.vkey}\nquorum none\n",
        "a log's key under two names": f"log {LOG.vkey}\nlog {Key('x.example', LOG.seed).vkey}\nquorum none\n",
        "a log's type for a witness": f"witness a {WITNESS.vkey}\nquorum a\n",
        "a witness's hash is wrong": f"witness a {w1.replace('/w1', '/w2')}\nquorum none\n",
        "a log's key of small order": f"log {vkey(LOG.origin, pack(TORSION[1]))}\nquorum none\n",
        "a witness without a name": f"witness {w1}\nquorum none\n",
        "a word too many": f"witness a {w1} https://a.example/ x\nquorum a\n",
        "a comment behind": "quorum none # why not\n",
        "carriage returns": "quorum none\r\n",
        "a null byte": "# \0\nquorum none\n",
        "a delete byte": "# \x7f\nquorum none\n",
        "a form feed": "\fquorum none\n",
        "a no-break space for a space": f"witness\u00a0a {w1}\nquorum none\n",
    }

    def sets(n, rule):
        if n > 3:
            chosen = [set(), {0, 1}, {3}, {0, 3}, {3, 4, 5}, {0, 1, 2}, {0, 1, 3}, {1, 2, 5}, set(range(6))]
        else:
            chosen = [{i for i in range(n) if mask >> i & 1} for mask in range(1 << n)]
        return [{"cosigned": sorted(s), "met": rule(s)} for s in chosen]

    text = checkpoint_text(LOG.origin, 7, drawn("judged root"))
    now = 1_760_000_200
    signed = seal(text, LOG)
    lines = [cosignature(text, k, now + i) for i, k in enumerate(keys_)]
    forged = cosignature(text, SECOND, now, bytes(64))
    stranger = cosignature(text, Key("stranger.example", drawn("stranger")), now)
    judged = {
        "nobody": ("", []),
        "two of X": (lines[0] + lines[1], [0, 1]),
        "one of X, one of Y": (lines[0] + lines[4], [0, 4]),
        "two of X, one of Y": (lines[2] + lines[5] + stranger + lines[0], [0, 2, 5]),
        "everybody": ("".join(lines), [0, 1, 2, 3, 4, 5]),
        "a stranger": (stranger, []),
        "a forged line among good ones": ("".join(lines[2:]) + lines[0] + forged, None),
    }
    rule = good["the specification's"][2]
    return {
        "good": [
            {"name": n, "policy": p, "witnesses": count, "sets": sets(count, met)}
            for n, (p, count, met) in good.items()
        ]
        + [{
            "name": "a name that is not UTF-8", "policy_hex": not_utf8.hex(), "witnesses": 1,
            "sets": sets(1, lambda s: 0 in s),
        }],
        "bad": [{"name": n, **blob("policy", p.encode())} for n, p in bad.items()],
        "judged": [
            {
                "name": n, "policy": example, "vkey": LOG.vkey, "note": signed + cosigned,
                "by": by and [[i, now + i] for i in by], "quorum": by is not None and rule(set(by)),
            }
            for n, (cosigned, by) in judged.items()
        ],
        "logs": [
            {"name": n, "policy": p, "vkey": k.vkey, "accepted": accepted}
            for n, p, k, accepted in [
                ("listed", example, LOG, True),
                ("not listed", example, PATHED, False),
                ("of the same name", example, Key(LOG.origin, drawn("impostor")), False),
                ("the second of two", f"log {LOG.vkey}\nlog {PATHED.vkey}\nquorum none\n", PATHED, True),
                ("none is listed", "quorum none\n", PATHED, True),
            ]
        ],
    }


@vectors
def witness():
    """Bodies of add-checkpoint, C2SP tlog-witness (section 6.3)."""
    leaves = [formula_leaf(i) for i in range(300)]
    text = checkpoint_text(LOG.origin, 300, tree_head(leaves))
    note = seal(text, LOG)
    proof = consistency_proof(107, leaves)
    body = add_checkpoint(107, proof, note)
    one = b64(proof[0])
    good = {
        "with a proof": (107, proof, note),
        "from nothing": (0, [], note),
        "from the same size": (300, [], note),
        "cosigned before": (256, consistency_proof(256, leaves), note + cosignature(text, SECOND, 5)),
        "63 hashes": (1, [proof[0]] * 63, note),
        "2^53 - 1": (2**53 - 1, [], note),
    }
    bad = {
        "empty": "",
        "64 hashes": add_checkpoint(1, [proof[0]] * 64, note),
        "no size": body.replace("old 107", "old"),
        "an empty size": body.replace("old 107", "old "),
        "another word": body.replace("old ", "size "),
        "a leading zero": body.replace("old 107", "old 0107"),
        "a sign": body.replace("old 107", "old +107"),
        "a size of 2^53": body.replace("old 107", f"old {2**53}"),
        "two spaces": body.replace("old 107", "old  107"),
        "a space behind": body.replace("old 107", "old 107 "),
        "carriage returns": body.replace("\n", "\r\n"),
        "no empty line": add_checkpoint(107, proof, "").rstrip("\n") + "\n" + note.replace("\n\n", "\n"),
        "an empty line first": "\n" + body,
        "a short hash": body.replace(one, b64(bytes(31))),
        "a hash in hex": body.replace(one, proof[0].hex()),
        "a hash without padding": body.replace(one, one.rstrip("=")),
        "a pad bit set": body.replace(one, stray_bit(one)),
    }
    now = 1_760_000_300
    ours, early = cosignature(text, WITNESS, now), cosignature(text, WITNESS, now - 1)
    theirs = cosignature(text, SECOND, now + 9)
    answers = {
        "ours": (ours, now, ours),
        "two of ours": (early + ours, now, ours),
        "two of ours, the newer first": (ours + early, now, ours),
        "beside another's": (theirs + ours, now, ours),
    }
    bad_answers = {
        "empty": "",
        "another's only": theirs,
        "no newline": ours.rstrip("\n"),
        "an empty line": ours + "\n",
        "a page": "<!doctype html>\n",
        "a note": f"{text}\n{ours}",
        "over another text": cosignature(text.replace("300", "301"), WITNESS, now),
        "a forged one beside a good one": ours + cosignature(text, WITNESS, now, bytes(64)),
        "plainly signed": seal(text, WITNESS)[len(text) + 1:],
        "65 lines": theirs * 64 + ours,
    }
    return {
        "requests_good": [
            {
                "name": n, "body": add_checkpoint(old, proof, checkpoint), "old": old,
                "proof": [h.hex() for h in proof], "checkpoint": checkpoint,
            }
            for n, (old, proof, checkpoint) in good.items()
        ],
        "requests_bad": [{"name": n, "body": b} for n, b in bad.items()],
        "conflicts_good": [{"size": s, "body": f"{s}\n"} for s in (0, 1, 300, 2**53 - 1)],
        "conflicts_bad": [
            {"body": b}
            for b in ("", "\n", "300", "0300\n", "+300\n", "300\n\n", " 300\n", "300 \n", "300\r\n", f"{2**53}\n", "x\n")
        ],
        "answers_good": [
            {"name": n, "vkey": cosigner_vkey(WITNESS), "text": text, "answer": answer, "time": t, "line": line}
            for n, (answer, t, line) in answers.items()
        ],
        "answers_bad": [
            {"name": n, "vkey": cosigner_vkey(WITNESS), "text": text, "answer": answer}
            for n, answer in bad_answers.items()
        ],
    }


@vectors
def paths():
    """Tile paths (section 5), below the log's URL."""
    good = [
        (kind, n, width)
        for kind, n, width in [
            ("0", 0, 1),
            ("0", 0, 255),
            ("0", 0, 256),
            ("0", 1, 256),
            ("0", 67, 17),
            ("0", 999, 256),
            ("0", 1000, 256),
            ("0", 1001, 9),
            ("0", 999_999, 100),
            ("0", 1_000_000, 256),
            ("0", 1_234_067, 256),
            ("0", 2**45 - 1, 255),
            ("1", 0, 1),
            ("2", 3, 200),
            ("5", 0, 31),
            ("entries", 0, 256),
            ("entries", 1_234_067, 10),
            ("receipts", 0, 5),
            ("receipts", 1_000_000_000, 256),
        ]
    ]
    bad = {
        "empty": "",
        "a leading slash": "/tile/0/000",
        "another word": "tiles/0/000",
        "no level": "tile/000",
        "an empty level": "tile//000",
        "a level of 00": "tile/00/000",
        "level 6": "tile/6/000",
        "level 63": "tile/63/000",
        "a negative level": "tile/-1/000",
        "an unknown kind": "tile/data/000",
        "kind in upper case": "tile/Entries/000",
        "no number": "tile/0",
        "an empty number": "tile/0/",
        "one digit": "tile/0/0",
        "two digits": "tile/0/00",
        "four digits": "tile/0/0000",
        "1000 in four digits": "tile/0/1000",
        "a last group with x": "tile/0/x001",
        "two groups with x": "tile/0/x001/x067",
        "a first group without x": "tile/0/001/067",
        "an upper-case X": "tile/0/X001/067",
        "a group of zeros more": "tile/0/x000/067",
        "a sign": "tile/0/+01",
        "hex": "tile/0/0a0",
        "a slash at the end": "tile/0/000/",
        "width 0": "tile/0/000.p/0",
        "width 256": "tile/0/000.p/256",
        "width 300": "tile/0/000.p/300",
        "a width with a leading zero": "tile/0/000.p/01",
        "a negative width": "tile/0/000.p/-1",
        "no width": "tile/0/000.p/",
        "no width and no slash": "tile/0/000.p",
        "a slash after the width": "tile/0/000.p/5/",
        "two widths": "tile/0/000.p/5.p/5",
        "a width in the middle": "tile/0/x001.p/5/067",
        "a query": "tile/0/000?x",
        "a number over 2^64": "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        "a space": "tile/0/ 00",
        "a wider digit": "tile/0/00\u0661",
    }
    return {
        "good": [{"path": tile_path(k, n, w), "kind": k, "n": n, "width": w} for k, n, w in good],
        "bad": [{"name": n, "path": p} for n, p in bad.items()],
    }


@vectors
def bundles():
    """Entry bundles (section 5)."""
    good = {
        "one": [b"a"],
        "two": [b"{}", b"[]"],
        "an empty one": [b"", b"x"],
        "any bytes": [bytes([i]) * (i + 1) for i in range(5)],
        "the longest": [b"z" * 65_535, b"x"],
        "a full bundle": [str(i).encode() for i in range(256)],
    }
    bad = {
        "one byte of a length": b"\0",
        "a length without an entry": b"\0\1",
        "cut in the last entry": bundle([b"abc", b"def"])[:-1],
        "a byte more": bundle([b"abc"]) + b"\0",
    }
    return {
        "good": [
            {"name": n, "entries": [blob("entry", e) for e in g], **blob("bundle", bundle(g))} for n, g in good.items()
        ],
        "bad": [{"name": n, **blob("bundle", d)} for n, d in bad.items()],
    }


# --- 10 HTTP interface -------------------------------------------------------

COUNTS = ("input", "cache_read", "cache_write", "output", "reasoning")


def sums(records):
    total = {"records": len(records)} | {c: sum(r.get(c, 0) for r in records) for c in COUNTS}
    return total | {"total": total["input"] + total["output"]}


def grouped(records, key):
    groups = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def by_source(records):
    of = grouped(records, lambda r: r["source"])
    return [{"source": s, **sums(of[s])} for s in ("proxy", "custom") if s in of]


def source_order(source):
    return ("proxy", "custom").index(source)


def models_of(records):
    of = grouped(records, lambda r: (r["source"], r["provider"], r.get("model")))
    return [
        {"source": s, "provider": p, "model": m, **sums(of[s, p, m])}
        for s, p, m in sorted(of, key=lambda k: (source_order(k[0]), k[1], k[2] or ""))
    ]


@vectors
def log():
    """A whole log of ten entries: what a gateway serves of it, byte for byte (sections 4 to 7 and 10)."""
    origin, start = LOG.origin, 1_760_000_000
    alice = "sk-proj-" + drawn("alice").hex()
    bob = "sk-ant-" + drawn("bob").hex()
    alice_id = key_id(origin, "openai", alice.encode()).hex()
    bob_id = key_id(origin, "anthropic", bob.encode()).hex()
    ids = [receipt_id(f"log {i}") for i in range(10)]

    def call(i, after, **fields):
        return usage(start + after, receipt=receipt_commitment(ids[i]).hex(), **fields)

    gpt = {"source": "proxy", "provider": "openai", "model": "gpt-5-mini-2025-08-07"}
    claude = {"source": "proxy", "provider": "anthropic", "model": "claude-sonnet-4-5"}
    wallet = "0x" + drawn("log wallet", 20).hex()
    lines = [
        log_entry(start, LOG),
        call(1, 3, key_id=alice_id, **gpt, input=2006, cache_read=1920, output=300, reasoning=192, outcome="complete",
             response=response_commitment("openai", "resp_1").hex()),
        call(2, 3, key_id=bob_id, **claude, input=50, cache_read=0, cache_write=40, output=503, outcome="complete",
             response=response_commitment("anthropic", "msg_1").hex()),
        call(3, 4, **gpt, input=9, output=12, outcome="complete"),
        call(4, 90, key_id=alice_id, wallet=wallet, link="claimed", **gpt, input=1000, output=17, outcome="aborted"),
        call(5, 90, key_id=alice_id, source="proxy", provider="openai", outcome="unknown"),
        call(6, 91, key_id=bob_id, source="custom", provider="example.co.uk", model="llama-3", input=1, output=2,
             reasoning=3, outcome="complete", flag="inconsistent"),
        call(7, 3600, key_id=bob_id, source="proxy", provider="openai", outcome="unmetered"),
        call(8, 86_400, key_id=bob_id, **claude, output=4_294_967_295, outcome="partial"),
        call(9, 86_401, key_id=alice_id, **gpt, input=4_294_967_295, output=0, outcome="complete"),
    ]
    size = len(lines)
    leaves = [leaf_hash(e) for e in lines]
    signatures_ = [LOG.sign(receipt_text(origin, i, h).encode()) for i, h in enumerate(leaves)]
    note = seal(checkpoint_text(origin, size, tree_head(leaves)), LOG)
    root = tree_head(leaves)

    records = [r for r in map(json.loads, lines) if r["kind"] == "usage"]
    users = grouped([r for r in records if "key_id" in r], lambda r: r["key_id"])
    modelled = {(r["provider"], r["model"]) for r in records if "model" in r}

    def board(source):
        rows = [{"key_id": k, **sums([r for r in rs if r["source"] == source])} for k, rs in users.items()]
        ranked = sorted((r for r in rows if r["records"]), key=lambda r: (-r["total"], r["key_id"]))
        return {"size": size, "from": None, "to": None, "source": source, "rows": ranked}

    def receipt_file(i):
        said = receipt_text(origin, i, leaves[i])
        hashed = key_hash(origin, LOG.public)
        return {
            "id": ids[i],
            "index": i,
            "leaf_hash": leaves[i].hex(),
            "entry": lines[i].decode(),
            "receipt": f"{said}\n" + signature_line(origin, hashed, signatures_[i]),
        }

    def record(i):
        return {k: v for k, v in receipt_file(i).items() if k != "id"}

    def proven(i):
        return receipt_file(i) | {"proof": tlog_proof(i, audit_path(i, leaves), note)}

    stranger = json.dumps(json.loads(lines[1]) | {"output": 301}, separators=(",", ":"))
    unsigned = seal(receipt_text(origin, 1, leaf_hash(stranger.encode())), PATHED)
    twice = [*leaves, leaves[1]]
    elsewhere = tlog_proof(
        size, audit_path(size, twice), seal(checkpoint_text(origin, size + 1, tree_head(twice)), LOG)
    )
    other_version = ids[1][:14] + "4" + ids[1][15:]
    of_it = usage(start, receipt=receipt_commitment(other_version).hex(), **gpt, input=1, output=1, outcome="complete")
    unversioned = {
        "id": other_version, "index": 1, "leaf_hash": leaf_hash(of_it).hex(), "entry": of_it.decode(),
        "receipt": seal(receipt_text(origin, 1, leaf_hash(of_it)), LOG),
    }
    bad_receipt_files = {
        "an id of version 4 to which the entry commits": unversioned,
        "a proof of the same entry elsewhere": receipt_file(1) | {"proof": elsewhere},
        "another call's id": receipt_file(1) | {"id": ids[2]},
        "an id in upper case": receipt_file(1) | {"id": ids[1].upper()},
        "an id of version 4": receipt_file(1) | {"id": ids[1][:14] + "4" + ids[1][15:]},
        "another entry": receipt_file(1) | {"entry": lines[2].decode()},
        "another index": receipt_file(1) | {"index": 2},
        "another leaf hash": receipt_file(1) | {"leaf_hash": leaves[2].hex()},
        "another receipt": receipt_file(1) | {"receipt": receipt_file(2)["receipt"]},
        "a changed entry": receipt_file(1) | {"entry": stranger, "leaf_hash": leaf_hash(stranger.encode()).hex()},
        "a changed entry, signed by another": receipt_file(1)
        | {"entry": stranger, "leaf_hash": leaf_hash(stranger.encode()).hex(), "receipt": unsigned},
        "the log's own entry": receipt_file(0),
        "a proof of another entry": receipt_file(1) | {"proof": proven(2)["proof"]},
        "a proof under an unsigned checkpoint": receipt_file(1)
        | {"proof": tlog_proof(1, audit_path(1, leaves), seal(checkpoint_text(origin, size, root), WITNESS))},
    }

    answers = {
        "/api/pubkey": {"origin": origin, "vkey": LOG.vkey, "key": LOG.public.hex()},
        "/api/chain": {
            "origin": origin, "size": size, "root": root.hex(), "root_base64": b64(root), "checkpoint": note,
        },
        "/api/stats": {
            "size": size,
            "records": len(records),
            "users": len(users),
            "models": len(modelled),
            "wallets": len({r["wallet"] for r in records if "wallet" in r}),
            "sources": by_source(records),
            "outcomes": {
                o: sum(r["outcome"] == o for r in records)
                for o in ("complete", "aborted", "partial", "unmetered", "unknown")
            },
        },
        "/api/models": {
            "size": size, "from": None, "to": None,
            "models": sorted(models_of(records), key=lambda m: -m["total"]),
        },
        "/api/leaderboard": board("proxy"),
        "/api/leaderboard?source=custom": board("custom"),
    }
    for user, theirs in users.items():
        answers[f"/api/user/{user}"] = {
            "size": size, "key_id": user, "sources": by_source(theirs), "models": models_of(theirs),
        }
    answers |= {f"/api/records/{i}": record(i) for i in range(size)}
    served = {"/checkpoint": note.encode()}
    for n, _ in enumerate(chunks(lines)):
        part = slice(256 * n, 256 * (n + 1))
        width = len(lines[part])
        served["/" + tile_path("entries", n, width)] = bundle(lines[part])
        served["/" + tile_path("receipts", n, width)] = b"".join(signatures_[part])
    served |= {f"/{path}": data for path, data in hash_tiles(leaves)}
    return {
        "facts": [
            {
                "origin": origin, "seed": LOG.seed.hex(), "vkey": LOG.vkey, "size": size, "root": root.hex(),
            }
        ],
        "entries": [{"index": i, "entry": e.decode(), "leaf_hash": leaves[i].hex()} for i, e in enumerate(lines)],
        "served": [{"path": path, "body_hex": data.hex()} for path, data in served.items()],
        "answers": [{"path": path, "json": answer} for path, answer in answers.items()],
        "receipts": [{"vkey": LOG.vkey, "file": receipt_file(i)} for i in range(1, size)],
        "receipts_proven": [{"vkey": LOG.vkey, "file": proven(i)} for i in range(1, size)],
        "receipts_bad": [{"name": n, "vkey": LOG.vkey, "file": f} for n, f in bad_receipt_files.items()],
    }


@vectors
def anchors():
    """What a log says to EVM chains (section 13)."""
    evm, thief = EvmKey(drawn("evm key")), EvmKey(drawn("another evm key"))
    long = Key("label." * 8 + "org/" + "p" * 48, drawn("long"))
    assert len(long.origin) == 100
    logs = [(LOG, evm), (PATHED, EvmKey(drawn("pathed evm key"))), (long, evm), (Key("a.b", drawn("log")), evm)]

    def of(key, evm):
        return {"origin": key.origin, "vkey": key.vkey, "evm_key": evm.address}

    def said(key, evm, size, root, time, signature=None):
        digest = checkpoint_digest(key, size, root, time)
        signature = evm.sign(digest) if signature is None else signature(digest)
        return of(key, evm) | {
            "size": size, "root": root.hex(), "time": time, "digest": digest.hex(), "signature": signature.hex(),
        }

    root, now = sha256(b"root"), 1760000000
    retirements = [(LOG, evm, logs[1]), (LOG, evm, None), (long, evm, (LOG, evm))]

    def split(signature):
        return int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]

    def twin(digest):
        r, s, v = split(evm.sign(digest))
        return word(r) + word(ORDER - s) + bytes([55 - v])

    bad = {
        "s in the upper half of the order": twin,
        "the other v": lambda d: evm.sign(d)[:64] + bytes([55 - evm.sign(d)[64]]),
        "v of 0 or 1": lambda d: evm.sign(d)[:64] + bytes([evm.sign(d)[64] - 27]),
        "v of EIP-155": lambda d: evm.sign(d)[:64] + bytes([evm.sign(d)[64] + 10]),
        "r of 0": lambda d: bytes(32) + evm.sign(d)[32:],
        "s of 0": lambda d: evm.sign(d)[:32] + bytes(32) + evm.sign(d)[64:],
        "r of the order": lambda d: word(ORDER) + evm.sign(d)[32:],
        "no v": lambda d: evm.sign(d)[:64],
        "a byte more": lambda d: evm.sign(d) + b"\0",
        "nothing": lambda d: b"",
        "another key": thief.sign,
        "another size": lambda d: evm.sign(checkpoint_digest(LOG, 8, root, now)),
        "another time": lambda d: evm.sign(checkpoint_digest(LOG, 7, root, now + 1)),
        "another log": lambda d: evm.sign(checkpoint_digest(PATHED, 7, root, now)),
        "a retirement": lambda d: evm.sign(retirement_digest(LOG, None)),
        "signed as a personal message (EIP-191)": lambda d: evm.sign(
            keccak(b"\x19Ethereum Signed Message:\n32", d)
        ),
    }
    return {
        "logs": [
            of(key, evm)
            | {
                "identity": identity_of(key).hex(),
                "domain_separator": domain_separator(key).hex(),
                "contract": contract_address(key, evm),
            }
            for key, evm in logs
        ],
        "checkpoints": [
            said(key, evm, *values)
            for key, evm in logs
            for values in [
                (1, sha256(b""), 0), (7, root, now), (2**32 - 1, root, 2**53 - 1), (2**32, bytes(32), now),
            ]
        ],
        "retirements": [
            of(key, evm)
            | {
                "next_vkey": after and after[0].vkey,
                "next_evm_key": after and after[1].address,
                "digest": retirement_digest(key, after).hex(),
                "signature": evm.sign(retirement_digest(key, after)).hex(),
            }
            for key, evm, after in retirements
        ],
        "signatures_bad": [{"name": name} | said(LOG, evm, 7, root, now, sign) for name, sign in bad.items()],
    }


def main():
    checking = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not checking:
        sys.exit(__doc__)
    wrong = [p.name for p in HERE.glob("*.json") if p.name not in FILES]
    for name, make in FILES.items():
        content = {"about": make.__doc__} | make()
        text = json.dumps(content, indent=1, ensure_ascii=True) + "\n"
        path = HERE / name
        if checking and (not path.exists() or path.read_text() != text):
            wrong.append(name)
        elif not checking:
            path.write_text(text)
    if wrong:
        sys.exit(f"differs from what this script makes: {', '.join(sorted(wrong))}")


if __name__ == "__main__":
    main()
