package devnet_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/ton"

	"cocoon/contracts/devnet"
)

const envCrashDir = "COCOON_TEST_CRASH_DIR"

func numbered(i uint64) *address.Address {
	return addressOf(binary.BigEndian.AppendUint64(make([]byte, 24), i))
}

func addressOf(id []byte) *address.Address { return address.NewAddress(0, 0, id).Bounce(false) }

// TestCrashChild is the process that TestDevnetKilledAtAnyMoment kills.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(envCrashDir)
	if dir == "" {
		t.Skip("runs as a child of TestDevnetKilledAtAnyMoment")
	}
	d := start(t, devnet.Options{Dir: dir})
	for i := uint64(d.Seqno()) << 32; ; i++ {
		if err := d.Faucet(context.Background(), numbered(i), big.NewInt(1_000_000)); err != nil {
			t.Fatal(err)
		}
		// Confirmed from here on.
		fmt.Println("confirmed", i, d.Seqno())
	}
}

// COCOON_SOAK=1 kills for long.
func TestDevnetKilledAtAnyMomentKeepsWhatItConfirmed(t *testing.T) {
	kills := 3
	if os.Getenv("COCOON_SOAK") != "" {
		kills = 100
	}
	dir := t.TempDir()
	var funded []uint64
	var newest uint64
	for round := range kills {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
		cmd.Env = append(os.Environ(), envCrashDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		got := 0
		for lines.Scan() {
			f := strings.Fields(lines.Text())
			if len(f) != 3 || f[0] != "confirmed" {
				continue
			}
			i, err1 := strconv.ParseUint(f[1], 10, 64)
			seqno, err2 := strconv.ParseUint(f[2], 10, 64)
			if err1 != nil || err2 != nil {
				t.Fatalf("%q", lines.Text())
			}
			funded = append(funded, i)
			newest = seqno
			// The pipe runs ahead of this loop, so the kill meets the child
			// somewhere inside a later block.
			if got++; got == 20+7*(round%10) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
	}
	if len(funded) < 60 {
		t.Fatalf("only %d payments were confirmed", len(funded))
	}
	d := start(t, devnet.Options{Dir: dir})
	if uint64(d.Seqno()) < newest {
		t.Fatalf("height %d came back, %d was confirmed", d.Seqno(), newest)
	}
	ctx := context.Background()
	api := library(t, d, ton.ProofCheckPolicySecure)
	master, err := api.GetMasterchainInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range funded {
		acc, err := api.GetAccount(ctx, master, numbered(i))
		if err != nil || acc.State == nil || acc.State.Balance.Nano().Int64() != 1_000_000 {
			t.Fatalf("payment %d is lost: %v", i, err)
		}
	}
}
