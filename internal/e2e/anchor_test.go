package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/contracts/tvm"
	contract "cocoon/contracts/worker"
	"cocoon/enclave/anchor"
	"cocoon/hostd/client"
	"cocoon/hostd/spec"
	"cocoon/internal/imagetest"
	"cocoon/internal/jcs"
	"cocoon/internal/toncell"
	"cocoon/verifier/evidence"
)

// guestLedger is where the guest finds the lite-server.
const guestLedger = "10.0.2.102:4924"

// TestARewoundDataDiskIsRefused boots one machine twice with a data disk that
// is tied to its worker contract, and once more with the disk as the first boot
// left it. COCOON_VM_TESTS=1 runs it: it boots three machines.
func TestARewoundDataDiskIsRefused(t *testing.T) {
	if os.Getenv("COCOON_VM_TESTS") == "" {
		t.Skip("boots three machines: set COCOON_VM_TESTS=1")
	}
	b := imagetest.Find(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	engine, err := tvm.Open(ctx, tvm.Options{})
	ok(err)
	defer engine.Close(context.Background())
	net, err := devnet.Start(ctx, devnet.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", TVM: engine})
	ok(err)
	defer net.Close()
	global, err := net.ConfigJSON()
	ok(err)
	c, err := chain.Open(global, chain.Options{TVM: engine})
	ok(err)
	defer c.Close()
	l := ledger.New(c, nil)
	seed := sha256.Sum256([]byte("owner"))
	key := ed25519.NewKeyFromSeed(seed[:])
	owner, err := c.Wallet(ctx, key)
	ok(err)
	ok(net.Faucet(ctx, owner.Address(), (100 * coin.TON).Big()))
	reg, err := l.DeployRegistry(ctx, owner, registry.New(registry.NewOwners(1, key.Public().(ed25519.PublicKey)), true), coin.TON)
	ok(err)
	own, err := toncell.FromAddr(owner.Address())
	ok(err)
	at, _, err := l.OpenWorker(ctx, owner, &contract.Terms{Owner: own, Payout: own, Registry: reg, Machine: seed, LeaveDelay: time.Hour}, coin.TON)
	ok(err)

	s := anchored(t, b, reg, own, at, net, global)
	disk := filepath.Join(t.TempDir(), "data.img")
	s.DataDisk = &spec.DataDisk{Path: disk, SizeMiB: 64}
	state := t.TempDir()
	_, h := daemon(t, hostd(t), state, b)
	copyDisk := func(from, to string) {
		t.Helper()
		raw, err := os.ReadFile(from)
		ok(err)
		ok(os.WriteFile(to, raw, 0o600))
	}
	for n := range 2 {
		announce(t, ctx, h, s, func(hint string) {
			if want := fmt.Sprintf("cocoon worker advance %s --generation %d ", at, n+1); !strings.Contains(hint, want) {
				t.Errorf("the machine asks for %q, want %q", hint, want)
			}
			_, _, err := l.Advance(ctx, owner, at, uint64(n+1))
			ok(err)
		})
		_, err = h.Stop(ctx, s.Name, false)
		ok(err)
		if n == 0 {
			copyDisk(disk, disk+".old")
		}
	}
	copyDisk(disk+".old", disk)
	_, _, err = boot(t, h, s, "anchor")
	st, gerr := h.Get(ctx, s.Name)
	ok(gerr)
	last := st.Guest.Stages[len(st.Guest.Stages)-1]
	if err == nil || last.Name != "anchor" || len(last.Faults) != 1 || last.Faults[0].Code != anchor.CodeRolledBack || last.Faults[0].Expected != "2 or 3" || last.Faults[0].Actual != "1" {
		t.Errorf("the old disk: %v, %+v", err, last)
	}
}

// anchored is a machine whose config names the registry, and whose operator's
// file the worker contract.
func anchored(t *testing.T, b imagetest.Build, reg, payout, at toncell.Address, net *devnet.Devnet, global []byte) *spec.Spec {
	t.Helper()
	s := worker(t, b)
	write := func(path string, v any) {
		t.Helper()
		doc, err := jcs.Marshal(v)
		if err == nil {
			err = os.WriteFile(path, doc, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	doc, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := evidence.ParseConfig(doc)
	if err != nil {
		t.Fatal(err)
	}
	cfg.NetworkID, cfg.Registry = devnet.GlobalID, reg.String()
	write(s.Config, cfg)
	write(s.Operator, evidence.Operator{Version: 1, Payout: payout.String(), Worker: at.String(), Verifier: "http://10.0.2.100:80", Gateways: []string{}})
	// The numbers of a block are beyond a float's: they are left as they are.
	d := json.NewDecoder(bytes.NewReader(global))
	d.UseNumber()
	var g map[string]any
	if err := d.Decode(&g); err != nil {
		t.Fatal(err)
	}
	server := g["liteservers"].([]any)[0].(map[string]any)
	server["ip"], server["port"] = 10<<24|2<<8|102, 4924
	doc, err = json.Marshal(g)
	ton := filepath.Join(t.TempDir(), "ton-global.json")
	if err = errors.Join(err, os.WriteFile(ton, doc, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.FwCfg = map[string]string{"ton-global.json": ton}
	s.Forwards = []spec.Forward{{Guest: guestLedger, Target: net.Addr()}}
	return s
}

// announce starts the machine and does what it asks its owner for.
func announce(t *testing.T, ctx context.Context, h *client.Client, s *spec.Spec, do func(hint string)) {
	t.Helper()
	st, err := h.Start(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	killAll(t, st)
	for asked := false; ; {
		if st, err = h.Get(ctx, s.Name); err != nil {
			t.Fatal(err)
		}
		if passed, err := st.Reached("anchor"); err != nil {
			t.Fatal(err)
		} else if passed {
			if !asked {
				t.Error("the machine asked for nothing")
			}
			return
		}
		for _, f := range st.Guest.Faults {
			if f.Code == anchor.CodeNotAnnounced && !asked {
				asked = true
				do(f.Remedy)
			}
		}
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
