package devnet_test

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"

	"cocoon/contracts/chain"
	"cocoon/contracts/devnet"
	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
)

var engine *tvm.Engine

// TestMain opens the real TVM once; without its file the tests fail, they do
// not skip.
func TestMain(m *testing.M) {
	var err error
	if engine, err = tvm.Open(context.Background(), tvm.Options{}); err != nil {
		fault.Print(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := engine.Close(context.Background()); err != nil {
		fault.Print(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// open returns a client of this project for a devnet.
func open(t testing.TB, d *devnet.Devnet) *chain.Client {
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

// wallets opens the wallets that a devnet was started with.
func wallets(t testing.TB, ctx context.Context, d *devnet.Devnet, c *chain.Client) []*chain.Wallet {
	t.Helper()
	var out []*chain.Wallet
	for _, w := range d.Wallets() {
		b, err := os.ReadFile(w.Key)
		if err != nil {
			t.Fatal(err)
		}
		seed, err := hex.DecodeString(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		cw, err := c.Wallet(ctx, ed25519.NewKeyFromSeed(seed))
		if err != nil {
			t.Fatal(err)
		}
		if cw.Address().String() != w.Address {
			t.Fatalf("the key of %s is that of %s", w.Address, cw.Address())
		}
		out = append(out, cw)
	}
	return out
}

// TestWithoutTheTVMTheseTestsFail runs this program without build/tvm.
func TestWithoutTheTVMTheseTestsFail(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), tvm.EnvDir+"="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(out), "make deps") {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
}
