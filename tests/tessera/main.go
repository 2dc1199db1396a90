// Tessera runs a log of github.com/transparency-dev/tessera, which knows
// nothing of Tallystick, and has its checkpoints cosigned by witnesses.
//
//	tessera key <file>                      makes the log's key, says its vkey
//	tessera log <file> <folder> <policy>    appends 7 entries, says the checkpoint
//
// The checkpoint is said once it has the policy's quorum and covers the
// entries; until then, and without one, it exits 1.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

const origin = "tessera.example.org/log"

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "key":
		err = makeKey(os.Args[2])
	case len(os.Args) == 5 && os.Args[1] == "log":
		err = appendSome(os.Args[2], os.Args[3], os.Args[4])
	default:
		err = errors.New("usage: tessera key <file> | tessera log <file> <folder> <policy>")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tessera:", err)
		os.Exit(1)
	}
}

func makeKey(file string) error {
	secret, public, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return err
	}
	fmt.Println(public)
	return os.WriteFile(file, []byte(secret), 0o600)
}

func appendSome(file, folder, policy string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	secret, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(string(secret))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(policy)
	if err != nil {
		return err
	}
	witnesses, err := tessera.NewWitnessGroupFromPolicy(text)
	if err != nil {
		return err
	}
	driver, err := posix.New(ctx, posix.Config{Path: folder})
	if err != nil {
		return err
	}
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(200*time.Millisecond).
		WithBatching(16, 50*time.Millisecond).
		WithWitnesses(witnesses, &tessera.WitnessOptions{Timeout: 10 * time.Second})
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		return err
	}
	awaiter := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 50*time.Millisecond)
	var checkpoint []byte
	for n := range 7 {
		entry := fmt.Appendf(nil, "entry %d of %s", n, time.Now())
		// A checkpoint is published only with its quorum.
		if _, checkpoint, err = awaiter.Await(ctx, appender.Add(ctx, tessera.NewEntry(entry))); err != nil {
			return err
		}
	}
	fmt.Print(string(checkpoint))
	return shutdown(ctx)
}
