package wallet

import (
	"bufio"
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/contracts/chain"
)

const envKillDir = "COCOON_TEST_WALLET"

// TestKillChild is the process that TestKilledAtAnyMomentPaysOnce kills: it pays
// accounts 0, 1, 2… under their numbers, from the start each time.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(envKillDir)
	if dir == "" {
		t.Skip("runs as a child of TestKilledAtAnyMomentPaysOnce")
	}
	ctx := context.Background()
	c, err := chain.OpenFile(filepath.Join(dir, "net.json"), chain.Options{TVM: engine})
	if err != nil {
		t.Fatal(err)
	}
	w, err := Open(Options{Dir: dir, Sealer: Passphrase{"open sesame", 10}, Network: c, TVM: engine})
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(0); ; i++ {
		if _, _, err := w.Pay(ctx, fmt.Sprint(i), pay(i, 0.5)); err != nil {
			t.Fatal(err)
		}
		fmt.Println("paid", i)
	}
}

// COCOON_SOAK=1 kills for long.
func TestKilledAtAnyMomentPaysOnce(t *testing.T) {
	kills := 4
	if os.Getenv("COCOON_SOAK") != "" {
		kills = 30
	}
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t, kind, wide)
			w.ok(w.wallet.Close())
			cfg, err := w.net.ConfigJSON()
			w.ok(err)
			w.ok(os.WriteFile(filepath.Join(w.dir, "net.json"), cfg, 0o600))
			rnd := rand.New(rand.NewSource(1))
			most := 0
			for range kills {
				cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$")
				cmd.Env = append(os.Environ(), envKillDir+"="+w.dir)
				cmd.Stderr = os.Stderr
				out, err := cmd.StdoutPipe()
				w.ok(err)
				w.ok(cmd.Start())
				lines := bufio.NewScanner(out)
				target, got := most+3+rnd.Intn(4), 0
				for lines.Scan() {
					if !strings.HasPrefix(lines.Text(), "paid") {
						continue
					}
					if got++; got == target {
						// Somewhere inside the payments that follow.
						time.Sleep(time.Duration(rnd.Intn(30)) * time.Millisecond)
						w.ok(cmd.Process.Kill())
					}
				}
				_ = cmd.Wait() // it was killed
				if got < target {
					t.Fatalf("the child ended after %d payments", got)
				}
				most = got
			}
			w.open()
			w.ok(w.wallet.Recover(w.ctx))
			es, err := w.wallet.History(1000)
			w.ok(err)
			if len(es) < most {
				t.Fatalf("%d of %d payments are in the journal", len(es), most)
			}
			for i := range uint64(len(es)) {
				w.once(i, 0.5)
			}
		})
	}
}
