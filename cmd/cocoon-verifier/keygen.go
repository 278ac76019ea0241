package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/verifier/tpm"
)

// akCALifetime is how long a new authority's certificate lasts. Policies name
// it, so it is not renewed in passing.
const akCALifetime = 5 * 365 * 24 * time.Hour

// Files that keygen makes.
const (
	signingKeyFile = "verifier.key"
	journalKeyFile = "journal.key"
	akCAKeyFile    = "ak-ca.key"
	akCACertFile   = "ak-ca.crt"
)

// keygen makes the signing key, the journal's and the AK authority in a directory, and
// prints the public signing key in hex. It replaces nothing.
func keygen(args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("cocoon-verifier keygen", flag.ContinueOnError)
	fs.SetOutput(stderr)
	dir := fs.String("dir", "", "`directory` for the keys")
	name := fs.String("name", "cocoon verifier AK authority", "name in the AK authority's certificate")
	if err := parseFlags(fs, args); err != nil {
		return ignoreHelp(err)
	}
	if *dir == "" {
		return fault.New(fault.ExitInternal, "usage", "give --dir", "making keys: no directory")
	}
	bad := func(err error) error {
		return fault.New(fault.ExitInternal, "verifier.keygen", "choose a directory without keys in it", "making keys: %w", err)
	}
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return bad(err)
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return bad(err)
	}
	ca, err := tpm.NewCA(*name, time.Now().Add(-time.Hour).Truncate(time.Second), akCALifetime)
	if err != nil {
		return bad(err)
	}
	if err := keyfile.Write(filepath.Join(*dir, signingKeyFile), key); err != nil {
		return bad(err)
	}
	_, journalKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return bad(err)
	}
	if err := keyfile.Write(filepath.Join(*dir, journalKeyFile), journalKey); err != nil {
		return bad(err)
	}
	if err := keyfile.Write(filepath.Join(*dir, akCAKeyFile), ca.Key); err != nil {
		return bad(err)
	}
	if err := keyfile.WriteCert(filepath.Join(*dir, akCACertFile), ca.Cert); err != nil {
		return bad(err)
	}
	fmt.Fprintln(stdout, hex.EncodeToString(public))
	return nil
}
