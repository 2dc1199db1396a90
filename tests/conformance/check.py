"""Rebuilds a log with pymerkle, which knows nothing of Tallystick.

    check.py <log url> <vkey> <folder>

The folder holds checkpoints of the log, a signed note a file (whose signatures
are not verified here: main.go does). The tree is built from the entries as the
log serves them; for each checkpoint its root must be the signed one, and the
inclusion of a spread of entries, and the consistency of every two trees, must
be proven against the signed roots. Says what it verified, or exits 1 at the
first fault.
"""

import base64
import itertools
import pathlib
import sys
import urllib.request

from pymerkle import (
    InmemoryTree,
    InvalidProof,
    verify_consistency,
    verify_inclusion,
)

# C2SP tlog-tiles.
WIDTH = 256


def main(url, vkey, folder):
    origin = vkey.split("+")[0]
    roots = dict(sorted(read(file, origin) for file in folder.iterdir()))
    if not roots:
        raise SystemExit(f"no checkpoints in {folder}")
    tree = InmemoryTree(algorithm="sha256")
    for entry in entries(url.rstrip("/"), max(roots)):
        tree.append_entry(entry)
    for size, root in roots.items():
        if tree.get_root(size) != root:
            raise SystemExit(f"size {size}: the entries don't give the root")
        for index in spread(size):
            included(tree, index, size, root)
        print(f"size {size}: root, {len(spread(size))} inclusions")
    pairs = list(itertools.combinations(roots.items(), 2))
    for (older, before), (newer, after) in pairs:
        proof = tree.prove_consistency(older, newer)
        verify_consistency(before, after, proof, older, newer, "sha256")
    print(f"consistency: {len(pairs)} pairs")


def read(file, origin):
    """Size and root that a checkpoint states."""
    name, size, root, *_ = file.read_text().split("\n")
    if name != origin:
        raise SystemExit(f"{file} is of {name}, expected {origin}")
    return int(size), base64.b64decode(root, validate=True)


def entries(url, size):
    """Every entry, from its bundles."""
    for n in range(-(-size // WIDTH)):
        width = min(WIDTH, size - n * WIDTH)
        path = f"x{n // 1000:03}/{n % 1000:03}" if n > 999 else f"{n:03}"
        partial = f".p/{width}" if width < WIDTH else ""
        with urllib.request.urlopen(f"{url}/tile/entries/{path}{partial}") as answer:
            rest = answer.read()
        for _ in range(width):
            length = int.from_bytes(rest[:2], "big")
            entry, rest = rest[2 : 2 + length], rest[2 + length :]
            yield entry
        if rest:
            raise SystemExit(f"bundle {n} holds more than {width} entries")


def included(tree, index, size, root):
    """Requires that the entry's leaf, and no other, is proven."""
    proof = tree.prove_inclusion(index + 1, size)
    leaf = tree.get_leaf(index + 1)
    verify_inclusion(leaf, root, proof, index + 1, size, "sha256")
    try:
        verify_inclusion(leaf[::-1], root, proof, index + 1, size, "sha256")
    except InvalidProof:
        return
    raise SystemExit(f"size {size}: another leaf is included as well")


def spread(size):
    """The entries that are looked at, as main.go chooses them."""
    ends = [0, 1, 2, 254, 255, 256, 257, 65535, 65536, size - 2, size - 1]
    chosen = {*ends, size // 3, size // 2}
    return sorted(n for n in chosen if 0 <= n < size)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]))
