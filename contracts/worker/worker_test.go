package worker

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

func sum(s string) Hash { return sha256.Sum256([]byte(s)) }

func terms() Terms {
	return Terms{
		Owner: toncell.Address{Hash: sum("owner")}, Payout: toncell.Address{Hash: sum("payout")},
		Registry: toncell.Address{Hash: sum("registry")}, Machine: sum("machine"), LeaveDelay: 24 * time.Hour,
	}
}

func TestTermsRoundTripThroughAFreshContract(t *testing.T) {
	tm := terms()
	init, addr, err := tm.StateInit()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Decode(init.Data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&State{Terms: tm}, s); diff != "" {
		t.Error(diff)
	}
	if own, err := s.Terms.Address(); err != nil || own != addr {
		t.Errorf("%v, %v", own, err)
	}
	if err := CheckCode(init.Code); err != nil {
		t.Error(err)
	}
	if err := CheckCode(init.Data); !fault.Has(err, "contract.code_hash") {
		t.Errorf("other code: %v", err)
	}
}

func TestEveryTermIsInTheAddress(t *testing.T) {
	base := terms()
	first, err := base.Address()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[toncell.Address]string{first: "nothing"}
	for name, change := range map[string]func(*Terms){
		"owner": func(x *Terms) { x.Owner.Hash[0]++ }, "payout": func(x *Terms) { x.Payout.Hash[0]++ },
		"registry": func(x *Terms) { x.Registry.Hash[0]++ }, "machine": func(x *Terms) { x.Machine[0]++ },
		"delay": func(x *Terms) { x.LeaveDelay += time.Second },
	} {
		x := terms()
		change(&x)
		addr, err := x.Address()
		if err != nil {
			t.Fatal(err)
		}
		if was, dup := seen[addr]; dup {
			t.Errorf("changing %s gives the address of changing %s", name, was)
		}
		seen[addr] = name
	}
}

func TestDelaysThatNobodyShouldRelyOn(t *testing.T) {
	for _, d := range []time.Duration{0, time.Second, MaxLeaveDelay + time.Second, time.Hour + time.Millisecond} {
		x := terms()
		x.LeaveDelay = d
		if err := x.Check(); !fault.Has(err, "worker.terms") {
			t.Errorf("%s: %v", d, err)
		}
	}
	if x := terms(); x.Check() != nil {
		t.Error(x.Check())
	}
}

func FuzzDecode(f *testing.F) {
	tm := terms()
	init, _, err := tm.StateInit()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(init.Data.ToBOC())
	f.Fuzz(func(t *testing.T, b []byte) {
		data, err := toncell.ParseBOC(b, toncell.Limits{Bytes: 64 << 10, Cells: 1024, Depth: 300})
		if err != nil {
			return
		}
		s, err := Decode(data)
		if err != nil {
			return
		}
		if s.Leaving > s.Stake || s.Firm() > s.Stake {
			t.Fatalf("%+v", s)
		}
		if _, err := s.Terms.Cell(); err != nil {
			t.Fatal(err)
		}
	})
}
