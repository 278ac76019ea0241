package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/ledger"
	"cocoon/contracts/wallet"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
)

// tonFlags say which TON network a command talks to, and with which wallet.
type tonFlags struct {
	config     string
	key        string
	passphrase string
	timeout    time.Duration
	json       bool

	opened *wallet.Wallet
}

func (f *tonFlags) register(cmd *cobra.Command, wallet bool) {
	fs := cmd.Flags()
	fs.StringVar(&f.config, "config", "", "the network's global.config.json `file`; it alone says whether this is a devnet, testnet or mainnet")
	fs.DurationVar(&f.timeout, "timeout", time.Minute, "give up after this `time`")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	need(cmd, "config")
	if wallet {
		fs.StringVar(&f.key, "key", "", "a wallet's directory (cocoon wallet new), or a `file` with an Ed25519 seed, 64 hex digits, unprotected; such a file is made if there is none")
		registerPassphrase(cmd, &f.passphrase)
		need(cmd, "key")
	}
}

// need marks a flag as required; the only error is a flag that does not exist,
// which the scripts would show at once.
func need(cmd *cobra.Command, name string) { _ = cmd.MarkFlagRequired(name) }

// with opens the ledger for one command.
func (f *tonFlags) with(cmd *cobra.Command, do func(context.Context, *ledger.Ledger) error) (err error) {
	c, err := chain.OpenFile(f.config, chain.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	defer func() {
		if f.opened != nil {
			err = errors.Join(err, f.opened.Close())
		}
	}()
	return do(ctx, ledger.New(c, nil))
}

// wallet opens the wallet of --key.
func (f *tonFlags) wallet(ctx context.Context, l *ledger.Ledger) (chain.Sender, error) {
	if info, err := os.Stat(f.key); err == nil && info.IsDir() {
		p, err := passphrase(f.passphrase, false)
		if err != nil {
			return nil, err
		}
		engine, err := l.Chain().TVM(ctx)
		if err != nil {
			return nil, err
		}
		f.opened, err = wallet.Open(wallet.Options{Dir: f.key, Sealer: p, Network: l.Chain(), TVM: engine})
		if err != nil {
			return nil, err
		}
		return f.opened, nil
	}
	key, err := seedFile(f.key)
	if err != nil {
		return nil, err
	}
	return l.Chain().Wallet(ctx, key)
}

// seedFile reads an Ed25519 seed as 64 hex digits, or makes one where there is
// no file, readable by its owner only.
func seedFile(path string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return newSeedFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	seed, err := hexbytes.ParseHash(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fault.New(fault.ExitParse, "key.malformed", "the file must hold 64 lower-case hex digits", "reading the key in %s: %w", path, err)
	}
	return ed25519.NewKeyFromSeed(seed[:]), nil
}

func newSeedFile(path string) (ed25519.PrivateKey, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rand.Reader, seed[:]); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	_, err = f.WriteString(hex.EncodeToString(seed[:]) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("writing a key: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed[:]), nil
}

// addressFlag is a TON address on a command line.
type addressFlag struct {
	toncell.Address
	set bool
}

// String returns the value as the flag takes it.
func (a *addressFlag) String() string {
	if !a.set {
		return ""
	}
	return a.Address.String()
}

// Set reads what stands behind the flag.
func (a *addressFlag) Set(s string) error {
	v, err := toncell.ParseAddress(s)
	if err != nil {
		return err
	}
	a.Address, a.set = v, true
	return nil
}

// Type names the form of the value in the help.
func (a *addressFlag) Type() string { return "address" }

// hashFlag is 32 bytes of hex on a command line.
type hashFlag struct {
	hexbytes.Hash
	set bool
}

// String returns the value as the flag takes it.
func (h *hashFlag) String() string {
	if !h.set {
		return ""
	}
	return h.Hash.String()
}

// Set reads what stands behind the flag.
func (h *hashFlag) Set(s string) error {
	v, err := hexbytes.ParseHash(s)
	if err != nil {
		return err
	}
	h.Hash, h.set = v, true
	return nil
}

// Type names the form of the value in the help.
func (h *hashFlag) Type() string { return "hex" }

// coinFlag is an amount of TON on a command line.
type coinFlag struct{ coin.Nano }

// String returns the value as the flag takes it.
func (c *coinFlag) String() string { return c.Nano.String() }

// Set reads what stands behind the flag.
func (c *coinFlag) Set(s string) error {
	v, err := coin.Parse(s)
	if err != nil {
		return err
	}
	c.Nano = v
	return nil
}

// Type names the form of the value in the help.
func (c *coinFlag) Type() string { return "TON" }

// addressArg reads a command's one argument.
func addressArg(args []string) (toncell.Address, error) {
	a, err := toncell.ParseAddress(args[0])
	if err != nil {
		return a, fault.New(fault.ExitInternal, "ton.address.malformed", "give it as EQ…, UQ… or 0:hex", "%w", err)
	}
	return a, nil
}

// printer writes lines and keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) f(format string, args ...any) {
	if p.err == nil {
		if _, err := fmt.Fprintf(p.w, format+"\n", args...); err != nil {
			p.err = fmt.Errorf("writing the result: %w", err)
		}
	}
}
