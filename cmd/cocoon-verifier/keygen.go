package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/verifier/policy"
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
// prints the public signing key in hex. With --next it makes the signing key of a
// rotation alone, with --seal one that only this machine releases: its TPM, or
// what a config says of that key. It replaces nothing.
func keygen(args []string, stdout, stderr io.Writer) (err error) {
	fs := flag.NewFlagSet("cocoon-verifier keygen", flag.ContinueOnError)
	fs.SetOutput(stderr)
	dir := fs.String("dir", "", "`directory` for the keys")
	next := fs.String("next", "", "make only the signing key that begins at this `time`, RFC 3339")
	sealed := fs.String("seal", "", "make only a signing key, sealed to this machine, in this `file`")
	config := fs.String("config", "", "with --seal: `file` of the config that names the key and says what seals it, instead of the TPM")
	device := fs.String("tpm", DefaultTPM, "`device` of the TPM that seals")
	name := fs.String("name", "cocoon verifier AK authority", "name in the AK authority's certificate")
	if err := parseFlags(fs, args); err != nil {
		return ignoreHelp(err)
	}
	if *sealed != "" && *dir == "" && *next == "" {
		k := &Sealed{File: *sealed, TPM: *device}
		if *config != "" {
			if k, err = sealedBy(*config, *sealed); err != nil {
				return err
			}
		}
		return sealKey(&keystore{}, k, stdout)
	}
	if *config != "" && *sealed == "" {
		// The keys below lie open in files: not what was asked for.
		return fault.New(fault.ExitInternal, "usage", "name the sealed key's file with --seal", "making keys: --config says what seals a key, and none is to be sealed")
	}
	if *dir == "" || *sealed != "" {
		return fault.New(fault.ExitInternal, "usage", "give --dir, or --seal without it", "making keys: no directory")
	}
	bad := func(err error) error {
		return fault.New(fault.ExitInternal, "verifier.keygen", "choose a directory without keys in it", "making keys: %w", err)
	}
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return bad(err)
	}
	if *next != "" {
		return nextKey(*dir, *next, stdout)
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

// nextKey makes the key that follows in a rotation. It is named by when it
// begins, which the config has to say, too.
func nextKey(dir, begin string, stdout io.Writer) error {
	bad := func(err error) error {
		return fault.New(fault.ExitInternal, "verifier.keygen", "give a time to come, such as 2027-01-01T00:00:00Z, that has no key yet", "making the next key: %w", err)
	}
	at, err := time.Parse(time.RFC3339, begin)
	if err != nil {
		return bad(err)
	}
	if !at.After(time.Now()) {
		return bad(fmt.Errorf("%s has passed: nobody would have seen the key before it signs", begin))
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return bad(err)
	}
	if err := keyfile.Write(filepath.Join(dir, "verifier-"+at.UTC().Format("20060102T150405Z")+".key"), key); err != nil {
		return bad(err)
	}
	fmt.Fprintln(stdout, hex.EncodeToString(public))
	return nil
}

// sealedBy returns what a config says of a sealed key, by the path of its file.
func sealedBy(config, file string) (*Sealed, error) {
	c, err := readConfig(config)
	if err != nil {
		return nil, err
	}
	want, err := filepath.Abs(file)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "verifier.keygen", "give the file's path", "sealing a key: %w", err)
	}
	for i := range c.Signing {
		k := c.Signing[i].Sealed
		if k == nil {
			continue
		}
		if at, err := filepath.Abs(c.path(k.File)); err == nil && at == want {
			out := *k
			out.File = want
			return &out, nil
		}
	}
	return nil, fault.New(fault.ExitInternal, "verifier.keygen", `name the file as "sealed" in "signing_keys" of the config`, "sealing a key: %s names no sealed key %s", config, file)
}

// sealKey makes a signing key that is in no file: its seed is sealed to what the
// machine is and has booted.
func sealKey(s *keystore, k *Sealed, stdout io.Writer) (err error) {
	defer func() {
		if err != nil {
			err = fault.New(fault.ExitInternal, "verifier.keygen", "run it on the machine that is to have the key, with a file that is not there yet", "sealing a key: %w", err)
		}
	}()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	sealer, dev, err := s.openSealer(k)
	if err != nil {
		return err
	}
	blob, err := sealer.Seal(key.Seed())
	if err := errors.Join(err, dev.Close()); err != nil {
		return err
	}
	f, err := os.OpenFile(k.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(blob)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	fmt.Fprintln(stdout, hex.EncodeToString(public))
	return nil
}

// makeKeys makes the signing key and the journal's where the config asks for
// that and they are not there. Only a development policy allows it: a verdict is
// worth what is known of its key, and nobody has pinned one that was just made.
func (c *Config) makeKeys(log *slog.Logger) error {
	if !c.MakeKeys {
		return nil
	}
	bad := func(err error) error {
		return fault.New(fault.ExitInternal, "verifier.make_keys", "make keys with cocoon-verifier keygen, and leave make_keys out", "making keys: %w", err)
	}
	p, err := c.readPolicy()
	if err != nil {
		return err
	}
	if p.Environment != policy.Development {
		return bad(fmt.Errorf("the policy %q is for %s", p.Name, p.Environment))
	}
	var files []string
	if c.SigningKey != "" {
		files = append(files, c.SigningKey)
	}
	for _, k := range c.Signing {
		if k.File != "" {
			files = append(files, k.File)
		}
	}
	if c.Journal != nil {
		files = append(files, c.Journal.Key)
	}
	for _, f := range files {
		path := c.path(f)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			continue // whoever reads the key says what is wrong with it
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return bad(err)
		}
		public, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return bad(err)
		}
		if err := keyfile.Write(path, key); err != nil {
			return bad(err)
		}
		log.Warn("key made, for development", "file", path, "public", hex.EncodeToString(public))
	}
	return nil
}
