package chain_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"cocoon/contracts/chain"
	"cocoon/contracts/devnet"
)

var update = flag.Bool("update", false, "write proof/testdata anew")

// TestWriteKeptProofs renews proof/testdata with -update.
func TestWriteKeptProofs(t *testing.T) {
	if !*update {
		t.Skip("only with -update")
	}
	ctx := testContext(t)
	d := start(t, devnet.Options{})
	c := open(t, d)
	w := funded(t, ctx, d, c, 1, nano(10))
	for i := range 5 {
		if _, err := w.Send(ctx, chain.Message{To: address100(byte(50 * i)), Nano: nano(1)}); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := d.ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	active, _, err := c.ExportAccountProof(ctx, w.Address())
	if err != nil {
		t.Fatal(err)
	}
	absent, _, err := c.ExportAccountProof(ctx, address100(99))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join("proof", "testdata")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"global.config.json": cfg, "active.json": active, "absent.json": absent} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
