// Conformance reads a log as anybody's C2SP tlog-tiles client would: with
// golang.org/x/mod/sumdb/{note,tlog}, which knows nothing of Tallystick.
//
//	conformance <log url> <vkey> <folder>
//
// The folder holds checkpoints of the log, a signed note a file. For each it
// verifies the signature, the root (from the log's tiles, and from every
// entry), and the inclusion of a spread of entries; then the consistency of
// every two of them. It says what it verified, or exits 1 at the first fault.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: conformance <log url> <vkey> <folder>")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(url, vkey, folder string) error {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	log := &client{url: strings.TrimSuffix(url, "/"), tiles: map[tlog.Tile][]byte{}}
	trees, err := checkpoints(folder, verifier)
	if err != nil {
		return err
	}
	newest := trees[len(trees)-1]
	served, err := log.get("/checkpoint")
	if err != nil {
		return err
	}
	if tree, err := open(served, verifier); err != nil || tree != newest {
		return fmt.Errorf("/checkpoint is %v (%v), expected %v", tree, err, newest)
	}
	entries, err := log.entries(newest.N)
	if err != nil {
		return err
	}
	rebuilt, err := rebuild(entries)
	if err != nil {
		return err
	}
	for _, tree := range trees {
		if err := log.verify(tree, entries, rebuilt); err != nil {
			return fmt.Errorf("size %d: %w", tree.N, err)
		}
	}
	return log.consistent(trees)
}

// checkpoints opens every note in the folder; by size.
func checkpoints(folder string, verifier note.Verifier) ([]tlog.Tree, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		return nil, err
	}
	var trees []tlog.Tree
	for _, file := range files {
		signed, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		tree, err := open(signed, verifier)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		trees = append(trees, tree)
	}
	if len(trees) == 0 {
		return nil, fmt.Errorf("no checkpoints in %s", folder)
	}
	sort.Slice(trees, func(i, j int) bool { return trees[i].N < trees[j].N })
	return trees, nil
}

// open verifies a checkpoint and reads it (C2SP tlog-checkpoint, without
// extension lines).
func open(signed []byte, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("not a checkpoint of %s: %q", verifier.Name(), opened.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// rebuild hashes every entry into a tree of our own.
func rebuild(entries [][]byte) (tlog.HashReader, error) {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = stored[index]
		}
		return hashes, nil
	})
	for n, entry := range entries {
		hashes, err := tlog.StoredHashes(int64(n), entry, reader)
		if err != nil {
			return nil, err
		}
		stored = append(stored, hashes...)
	}
	return reader, nil
}

// verify checks one tree against the log's tiles and against all its entries.
func (log *client) verify(tree tlog.Tree, entries [][]byte, rebuilt tlog.HashReader) error {
	root, err := tlog.TreeHash(tree.N, rebuilt)
	if err != nil {
		return err
	}
	if root != tree.Hash {
		return fmt.Errorf("the entries give root %v, the checkpoint says %v", root, tree.Hash)
	}
	// Every tile that it reads is verified against the root.
	reader := tlog.TileHashReader(tree, log)
	if root, err = tlog.TreeHash(tree.N, reader); err != nil {
		return err
	}
	if root != tree.Hash {
		return fmt.Errorf("the tiles give root %v, the checkpoint says %v", root, tree.Hash)
	}
	spread := spread(tree.N)
	for _, n := range spread {
		bundle, err := log.bundle(n/width, tree.N)
		if err != nil {
			return err
		}
		entry := bundle[n%width]
		if !bytes.Equal(entry, entries[n]) {
			return fmt.Errorf("entry %d differs in another width of its bundle", n)
		}
		proof, err := tlog.ProveRecord(tree.N, n, reader)
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, n, tlog.RecordHash(entry)); err != nil {
			return fmt.Errorf("entry %d: %w", n, err)
		}
		if tlog.CheckRecord(proof, tree.N, tree.Hash, n, tlog.RecordHash(entry[1:])) == nil {
			return errors.New("another entry is included as well")
		}
	}
	fmt.Printf("size %d: signature, root, %d inclusions\n", tree.N, len(spread))
	return nil
}

// consistent checks every two trees.
func (log *client) consistent(trees []tlog.Tree) error {
	pairs := 0
	for i, older := range trees {
		for _, newer := range trees[i+1:] {
			proof, err := tlog.ProveTree(newer.N, older.N, tlog.TileHashReader(newer, log))
			if err != nil {
				return err
			}
			if err := tlog.CheckTree(proof, newer.N, newer.Hash, older.N, older.Hash); err != nil {
				return fmt.Errorf("from %d to %d: %w", older.N, newer.N, err)
			}
			pairs++
		}
	}
	fmt.Printf("consistency: %d pairs\n", pairs)
	return nil
}

// spread is which entries of a tree of that size are looked at: its ends,
// those beside a tile's edge, and some between.
func spread(size int64) []int64 {
	var chosen []int64
	for _, n := range []int64{0, 1, 2, 254, 255, 256, 257, size / 3, size / 2, 65535, 65536, size - 2, size - 1} {
		if n >= 0 && n < size {
			chosen = append(chosen, n)
		}
	}
	sort.Slice(chosen, func(i, j int) bool { return chosen[i] < chosen[j] })
	distinct := chosen[:0]
	for i, n := range chosen {
		if i == 0 || n != chosen[i-1] {
			distinct = append(distinct, n)
		}
	}
	return distinct
}
