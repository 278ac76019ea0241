package job

import (
	"crypto/sha256"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

func sum(s string) Hash { return sha256.Sum256([]byte(s)) }

func terms() Terms {
	gateway := toncell.Address{Hash: sum("gateway")}
	return Terms{
		Client: toncell.Address{Hash: sum("client")}, ClientKey: sum("client key"), Payout: toncell.Address{Hash: sum("payout")},
		Registry: toncell.Address{Hash: sum("registry")}, ModelRoot: sum("model"), PolicyHash: sum("policy"), PriceCap: 5,
		Gateway: &gateway, FeeBps: 500, CloseDelay: time.Hour, Salt: sum("salt"),
	}
}

func TestTermsRoundTripThroughAFreshJob(t *testing.T) {
	for _, tm := range []Terms{terms(), func() Terms { x := terms(); x.Gateway, x.FeeBps = nil, 0; return x }()} {
		init, _, err := tm.StateInit()
		if err != nil {
			t.Fatal(err)
		}
		s, err := Decode(init.Data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&State{Verdicts: map[Hash]Recorded{}, Terms: tm}, s); diff != "" {
			t.Error(diff)
		}
		if err := CheckCode(init.Code); err != nil {
			t.Error(err)
		}
		if err := CheckCode(init.Data); !fault.Has(err, "contract.code_hash") {
			t.Errorf("other code: %v", err)
		}
	}
}

// Whoever agrees on the terms agrees on the address, and on nothing else's.
func TestEveryTermIsInTheAddress(t *testing.T) {
	base := terms()
	first, err := base.Address()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[toncell.Address]string{first: "nothing"}
	for name, change := range map[string]func(*Terms){
		"client": func(x *Terms) { x.Client.Hash[0]++ }, "client key": func(x *Terms) { x.ClientKey[0]++ },
		"payout": func(x *Terms) { x.Payout.Hash[0]++ }, "registry": func(x *Terms) { x.Registry.Hash[0]++ },
		"model": func(x *Terms) { x.ModelRoot[0]++ }, "policy": func(x *Terms) { x.PolicyHash[0]++ },
		"price cap": func(x *Terms) { x.PriceCap++ }, "gateway": func(x *Terms) { x.Gateway = nil },
		"fee": func(x *Terms) { x.FeeBps++ }, "closing delay": func(x *Terms) { x.CloseDelay += time.Second },
		"stake": func(x *Terms) { x.Stake = &toncell.Address{} }, "least stake": func(x *Terms) { x.MinStake++ },
		"salt": func(x *Terms) { x.Salt[0]++ },
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

func TestTermsThatNobodyShouldOpen(t *testing.T) {
	good := terms()
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	var all Terms
	all.FeeBps = 10001
	if n := len(fault.All(all.Check())); n != 6 {
		t.Errorf("%d failures at once: %v", n, all.Check())
	}
	for name, change := range map[string]func(*Terms){
		"a fee for nobody": func(x *Terms) { x.Gateway = nil }, "no delay": func(x *Terms) { x.CloseDelay = 0 },
		"half seconds": func(x *Terms) { x.CloseDelay += time.Second / 2 }, "a year's delay": func(x *Terms) { x.CloseDelay = 365 * 24 * time.Hour },
		"free": func(x *Terms) { x.PriceCap = 0 },
	} {
		x := terms()
		change(&x)
		if err := x.Check(); !fault.Has(err, "job.terms") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFeeIsTheContracts(t *testing.T) {
	x := terms()
	for amount, want := range map[uint64]uint64{0: 0, 19: 0, 20: 1, 999: 49, 1_000_000_019: 50_000_000, math.MaxUint64: math.MaxUint64 / 20} {
		if got := x.Fee(amount); got != want {
			t.Errorf("fee of %d is %d, want %d", amount, got, want)
		}
	}
	x.Gateway = nil
	if x.Fee(1000) != 0 {
		t.Error("a fee without a gateway")
	}
}

func TestStatusNames(t *testing.T) {
	if Status(9).String() != "status-9" || Closing.String() != "closing" {
		t.Error("names")
	}
}

func TestReleasedToTheNewestVerdictOfAKey(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	s := &State{Status: Released, Verdicts: map[Hash]Recorded{
		sum("1"): {sum("key"), at, at}, sum("2"): {sum("key"), at.Add(time.Hour), at}, sum("3"): {sum("other"), at.Add(2 * time.Hour), at},
	}}
	if v, ok := s.ReleasedTo(sum("key")); !ok || v != sum("2") {
		t.Errorf("%v %v", v, ok)
	}
	if _, ok := s.ReleasedTo(sum("nobody")); ok {
		t.Error("released to a key that no verdict names")
	}
	for _, st := range []Status{Funded, Closed} {
		s.Status = st
		if _, ok := s.ReleasedTo(sum("key")); ok {
			t.Errorf("released while %s", st)
		}
	}
}

func TestDepositValue(t *testing.T) {
	if v, err := DepositValue(5, true); err != nil || v != 5+StorageReserve+DepositGas {
		t.Errorf("%d, %v", v, err)
	}
	if v, err := DepositValue(5, false); err != nil || v != 5+DepositGas {
		t.Errorf("%d, %v", v, err)
	}
	if _, err := DepositValue(math.MaxUint64, false); err == nil || !strings.Contains(err.Error(), "more than there is") {
		t.Errorf("%v", err)
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
		if s.Status > Closed || s.Paid > s.Deposited || len(s.Verdicts) > MaxVerdicts {
			t.Fatalf("%+v", s)
		}
		if _, err := s.Terms.Cell(); err != nil {
			t.Fatal(err)
		}
	})
}
