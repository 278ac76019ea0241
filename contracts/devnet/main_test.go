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
	"cocoon/contracts/devnet/devnettest"
	"cocoon/contracts/tvm"
)

var engine *tvm.Engine

func TestMain(m *testing.M) { devnettest.Main(m, &engine) }

// open returns a client of this project for a devnet.
func open(t testing.TB, d *devnet.Devnet) *chain.Client {
	t.Helper()
	return devnettest.Open(t, d, engine)
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
