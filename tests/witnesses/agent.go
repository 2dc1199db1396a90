// Agent holds one key for litewitness, which takes its key from an SSH agent
// and from nowhere else.
//
//	agent <socket> <seed in hex>
//
// It prints the key's fingerprint once it listens.
package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"net"
	"os"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: agent <socket> <seed in hex>")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

func run(socket, seed string) error {
	bytes, err := hex.DecodeString(seed)
	if err != nil {
		return err
	}
	if len(bytes) != ed25519.SeedSize {
		return fmt.Errorf("the seed has %d bytes, expected %d", len(bytes), ed25519.SeedSize)
	}
	key := ed25519.NewKeyFromSeed(bytes)
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return err
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	fmt.Println(ssh.FingerprintSHA256(public))
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		// A client that leaves ends its connection with an error.
		go func() { _ = agent.ServeAgent(ring, connection) }()
	}
}
