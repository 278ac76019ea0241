package registry

import (
	"bytes"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/exitcode"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

var sameCells = cmp.Comparer(func(a, b *cell.Cell) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(a.Hash(), b.Hash())
})

func allEntries() []Entry {
	code := cell.BeginCell().MustStoreUInt(7, 8).EndCell()
	addr := toncell.Address{Hash: sum("to")}
	return []Entry{
		OwnersEntry{owners("x", "y")}, ManifestEntry{SHA256: sum("m"), State: Active},
		ManifestEntry{SHA256: sum("m"), State: Grace, GraceUntil: now},
		ModelEntry{Root: sum("r"), NameHash: sum("n"), Active: true},
		PolicyEntry{SHA256: sum("p"), Accepted: true},
		VerifierEntry{Public: public("a"), From: now, Until: Forever, Listed: true},
		ThresholdEntry{K: 3}, PausedEntry{Paused: true},
		GatewayEntry{ID: sum("g"), Gateway: &Gateway{Payout: addr, Endpoint: "g:443"}}, GatewayEntry{ID: sum("g")},
		CheckpointEntry{Origin: sum("log"), Size: 4, Root: sum("root")},
		ParametersEntry{New(owners("a", "b"), false).Parameters},
		UpgradeEntry{Code: code}, WithdrawEntry{To: addr, Amount: 9},
	}
}

func order(entries ...Entry) *Order {
	return &Order{GlobalID: -239, Registry: toncell.Address{Hash: sum("registry")}, Number: 11, ValidUntil: now, Later: true, Entries: entries}
}

func TestOrdersRoundTrip(t *testing.T) {
	o := order(allEntries()...)
	c, err := o.Cell()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadOrder(c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(o, got, sameCells); diff != "" {
		t.Error(diff)
	}
	for _, e := range o.Entries {
		if e.String() == "" {
			t.Errorf("%T says nothing", e)
		}
	}
}

func TestOrdersThatNobodyShouldSign(t *testing.T) {
	long := make([]Entry, MaxEntries+1)
	for i := range long {
		long[i] = PausedEntry{}
	}
	for name, o := range map[string]*Order{
		"no entry": order(), "too many": order(long...), "a verifier without key": order(VerifierEntry{}),
		"an upgrade without code": order(UpgradeEntry{}), "an endpoint of 128 bytes": order(GatewayEntry{Gateway: &Gateway{Endpoint: string(make([]byte, 128))}}),
		"owners after another change": order(PausedEntry{true}, OwnersEntry{owners("x", "y")}),
		"an owner without key":        order(OwnersEntry{Owners{Keys: map[uint8]ed25519.PublicKey{0: nil}}}),
	} {
		if _, err := o.Cell(); err == nil {
			t.Errorf("%s: a cell was built", name)
		}
	}
	entry := cell.BeginCell().MustStoreBoolBit(false).MustStoreUInt(77, 8).EndCell()
	c, err := toncell.NewBuilder().Uint(tagOrder, 32).Int32(-239).Addr(toncell.Address{}).Uint(1, 64).Uint(1, 32).Bool(true).Ref(entry).Cell()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadOrder(c); err == nil {
		t.Error("an entry that is not understood was read")
	}
}

func TestWhatNarrowsTrust(t *testing.T) {
	s := full(t)
	p := s.Parameters
	tighter, wider := p, p
	tighter.TrustClasses, tighter.MinBond = verdictcell.TDX.Bit(), p.MinBond+1
	wider.VerifierFee++
	later := now.Add(time.Hour)
	for name, tc := range map[string]struct {
		e    Entry
		want bool
	}{
		"revocation":                {ManifestEntry{SHA256: sum("manifest"), State: Revoked}, true},
		"grace for an active one":   {ManifestEntry{SHA256: sum("manifest"), State: Grace, GraceUntil: later}, true},
		"a longer grace":            {ManifestEntry{SHA256: sum("old"), State: Grace, GraceUntil: later.Add(1)}, false},
		"grace for an unknown one":  {ManifestEntry{SHA256: sum("?"), State: Grace, GraceUntil: later}, false},
		"a manifest":                {ManifestEntry{SHA256: sum("old"), State: Active}, false},
		"a model":                   {ModelEntry{Active: true}, false},
		"a retired model":           {ModelEntry{}, true},
		"a policy":                  {PolicyEntry{Accepted: true}, false},
		"a dropped policy":          {PolicyEntry{}, true},
		"a verifier":                {VerifierEntry{Public: public("new"), Until: Forever, Listed: true}, false},
		"a verifier's shorter time": {VerifierEntry{Public: public("a"), From: now, Until: later, Listed: true}, true},
		"a removed verifier":        {VerifierEntry{Public: public("a")}, true},
		"one listed again":          {VerifierEntry{Public: public("gone"), Until: now, Listed: true}, false},
		"a higher k":                {ThresholdEntry{3}, true},
		"a lower k":                 {ThresholdEntry{1}, false},
		"a pause":                   {PausedEntry{true}, true},
		"to resume":                 {PausedEntry{}, false},
		"a gateway":                 {GatewayEntry{Gateway: &Gateway{}}, false},
		"a removed gateway":         {GatewayEntry{}, true},
		"a checkpoint":              {CheckpointEntry{Origin: sum("log"), Size: 10}, true},
		"a new log":                 {CheckpointEntry{Origin: sum("?"), Size: 10}, false},
		"a forgotten log":           {CheckpointEntry{Origin: sum("log")}, false},
		"tighter parameters":        {ParametersEntry{tighter}, true},
		"wider parameters":          {ParametersEntry{wider}, false},
		"owners":                    {OwnersEntry{owners("a", "b")}, false},
		"code":                      {UpgradeEntry{}, false},
		"a withdrawal":              {WithdrawEntry{}, false},
	} {
		if got := order(PausedEntry{true}, tc.e).Narrows(s); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOwnersSign(t *testing.T) {
	own := owners("o1", "o2")
	o := order(PausedEntry{true})
	sig, err := own.Sign(key("o2"), o)
	if err != nil || sig.Index != 1 || !own.Verify(o, sig) {
		t.Fatalf("%+v, %v", sig, err)
	}
	o.Number++
	if own.Verify(o, sig) {
		t.Error("a signature holds for another order")
	}
	if _, err := own.Sign(key("x"), o); err == nil {
		t.Error("a stranger signed")
	}
	if _, err := signatureCell([]OwnerSignature{sig, sig}); err == nil {
		t.Error("one owner twice")
	}
	if _, err := signatureCell(nil); err == nil {
		t.Error("nobody signed")
	}
}

func TestOwnersThatCannotBe(t *testing.T) {
	for name, change := range map[string]func(*Owners){
		"more signatures than owners": func(o *Owners) { o.Threshold = 4 },
		"none":                        func(o *Owners) { o.Threshold = 0 },
		"no veto":                     func(o *Owners) { o.Veto = 0 },
		"a veto over the threshold":   func(o *Owners) { o.Veto = 3 },
		"final at the threshold":      func(o *Owners) { o.Final = 2 },
		"more than there are":         func(o *Owners) { o.Final = 4 },
		"too long a lock":             func(o *Owners) { o.Delay = MaxDelay + 1 },
	} {
		o := owners("a", "b", "c")
		if err := o.Check(); err != nil {
			t.Fatal(err)
		}
		change(&o)
		if err := o.Check(); !fault.Has(err, "contract."+exitcode.OwnersInvalid.String()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSlashFindsWhoSignedBoth(t *testing.T) {
	minute := time.Minute
	a := verdict(t, nil, -minute, minute, "a", "b")
	b := verdict(t, func(c *verdictcell.Common) { c.ReceiptKey = sum("other") }, -minute, minute, "b", "c")
	_, id, err := Slash(0, state().Keys(), a, b)
	if err != nil || id != verdictcell.KeyID(public("b")) {
		t.Errorf("%x, %v", id, err)
	}
	if _, _, err := Slash(0, state().Keys(), a, a); err != ErrNoContradiction {
		t.Errorf("the same verdict: %v", err)
	}
	other := verdict(t, func(c *verdictcell.Common) { c.PolicyHash = sum("other") }, -minute, minute, "a")
	if _, _, err := Slash(0, state().Keys(), a, other); err != ErrNoContradiction {
		t.Errorf("another policy: %v", err)
	}
	apart := verdict(t, nil, -minute, minute, "c")
	if _, _, err := Slash(0, state().Keys(), verdict(t, nil, -minute, minute, "a"), apart); err == nil {
		t.Error("two verifiers were one")
	}
}

func FuzzReadOrder(f *testing.F) {
	for _, e := range allEntries() {
		o := order(e)
		_, o.Schedule = idOf(e)
		c, err := o.Cell()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(c.ToBOC())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := toncell.ParseBOC(b, toncell.Limits{Bytes: 64 << 10, Cells: 1024, Depth: 300})
		if err != nil {
			return
		}
		o, err := ReadOrder(c)
		if err != nil {
			return
		}
		again, err := o.Cell()
		if err != nil || !bytes.Equal(again.Hash(), c.Hash()) {
			t.Fatalf("%+v is written otherwise than it was read, %v", o, err)
		}
		for _, e := range o.Entries {
			_ = e.String()
		}
	})
}

func TestSignedOrdersRoundTrip(t *testing.T) {
	own, o := owners("o1", "o2"), order(allEntries()...)
	s := &SignedOrder{Order: o}
	for _, n := range []string{"o2", "o1", "o2"} {
		sig, err := own.Sign(key(n), o)
		if err != nil {
			t.Fatal(err)
		}
		s.Add(sig)
	}
	doc, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseSignedOrder(doc)
	if err != nil || len(got.Signatures) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if diff := cmp.Diff(s, got, sameCells); diff != "" {
		t.Error(diff)
	}
	for i := range doc {
		bad := append([]byte(nil), doc...)
		bad[i] ^= 1
		got, err := ParseSignedOrder(bad)
		if err != nil {
			continue
		}
		for _, sig := range got.Signatures {
			if !own.Verify(got.Order, sig) {
				got = nil
				break
			}
		}
		if got != nil && len(got.Signatures) == 2 && !cmp.Equal(s, got, sameCells) {
			t.Fatalf("byte %d does not count", i)
		}
	}
}

func FuzzParseSignedOrder(f *testing.F) {
	doc, err := (&SignedOrder{Order: order(allEntries()...), Signatures: []OwnerSignature{{Index: 3}}}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSignedOrder(b)
		if err != nil {
			return
		}
		again, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseSignedOrder(again); err != nil || !cmp.Equal(s, got, sameCells) {
			t.Fatalf("%+v became %+v, %v", s, got, err)
		}
	})
}
