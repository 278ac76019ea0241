// Package devnettest sets up devnets for tests: the real TVM, opened once for a
// package's tests, devnets in temporary directories, and clients of them. In:
// a test; out: what ends with it.
package devnettest

import (
	"context"
	"os"
	"testing"

	"cocoon/contracts/chain"
	"cocoon/contracts/devnet"
	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
	"cocoon/internal/heldport"
)

// Main is a package's TestMain: it opens the TVM into *engine, runs the tests
// and ends the process. Without the TVM's file the tests fail, they do not
// skip.
func Main(m *testing.M, engine **tvm.Engine) {
	e, err := tvm.Open(context.Background(), tvm.Options{})
	if err != nil {
		fault.Print(os.Stderr, err)
		os.Exit(1)
	}
	*engine = e
	code := m.Run()
	if err := e.Close(context.Background()); err != nil {
		fault.Print(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// Start starts a devnet, in a new directory and at a free port unless o names
// others; o.TVM must be set.
func Start(t testing.TB, o devnet.Options) *devnet.Devnet {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	d, err := devnet.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() }) // a test may have closed it
	return d
}

// Close closes a devnet whose address another goes on with: nobody else gets
// the port meanwhile.
func Close(t testing.TB, d *devnet.Devnet) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := heldport.Hold(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Release(); err != nil {
			t.Error(err)
		}
	})
}

// Open returns a client of a devnet by the config that it writes.
func Open(t testing.TB, d *devnet.Devnet, engine *tvm.Engine) *chain.Client {
	t.Helper()
	cfg, err := d.ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	c, err := chain.Open(cfg, chain.Options{TVM: engine})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
