package proof_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/netconfig"
	"cocoon/contracts/chain/proof"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// The files in testdata are from a devnet; testdata/README says how to renew
// them.
var slow = flag.Bool("tamper-all", false, "flip every byte of the proofs instead of every seventh")

type sample struct {
	doc  []byte
	addr *address.Address
}

func load(t testing.TB) (ton.BlockIDExt, map[string]sample) {
	t.Helper()
	cfg, err := netconfig.Load(filepath.Join("testdata", "global.config.json"))
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]sample{}
	for _, name := range []string{"active", "absent"} {
		doc, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var b proof.Bundle
		if err := jcs.DecodeCanonical(doc, proof.MaxBundle, &b); err != nil {
			t.Fatal(err)
		}
		samples[name] = sample{doc, address.MustParseRawAddr(b.Address)}
	}
	return cfg.InitBlock, samples
}

// view is what must not change.
func view(st *proof.State) map[string]any {
	v := map[string]any{"status": st.Status, "balance": st.Balance.String(), "lt": st.LastLT, "hash": st.LastHash,
		"utime": st.Utime, "master": proof.Name(&st.Master), "global": st.GlobalID}
	for name, c := range map[string]*cell.Cell{"code": st.Code, "data": st.Data} {
		if c != nil {
			v[name] = c.Hash()
		}
	}
	return v
}

func TestKeptProofsVerify(t *testing.T) {
	trusted, samples := load(t)
	for name, s := range samples {
		st, err := proof.Verify(s.doc, trusted, s.addr)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if string(st.Status) != name {
			t.Errorf("%s: it is %s", name, st.Status)
		}
	}
}

// TestNoFlippedByteChangesAnything flips bytes of every binary part of a
// proof: the outcome is a refusal or the same state, never another one.
func TestNoFlippedByteChangesAnything(t *testing.T) {
	trusted, samples := load(t)
	step := 7
	if *slow {
		step = 1
	}
	for name, s := range samples {
		t.Run(name, func(t *testing.T) {
			st, err := proof.Verify(s.doc, trusted, s.addr)
			if err != nil {
				t.Fatal(err)
			}
			want := view(st)
			var b proof.Bundle
			if err := json.Unmarshal(s.doc, &b); err != nil {
				t.Fatal(err)
			}
			parts := map[string][]byte{
				"header": b.Links[0].HeaderProof, "config": b.Links[0].ConfigProof, "signature": b.Links[0].Signatures[0].Signature,
				"shard block": b.Shard[0], "shard state": b.Shard[1], "block": b.Account[0], "state": b.Account[1], "account": b.State,
			}
			refused, accepted := 0, 0
			for part, bytes := range parts {
				for i := 0; i < len(bytes); i += step {
					for _, bit := range []byte{0x01, 0x80} {
						bytes[i] ^= bit
						doc, err := jcs.Marshal(b)
						if err != nil {
							t.Fatal(err)
						}
						got, err := proof.Verify(doc, trusted, s.addr)
						bytes[i] ^= bit
						if err != nil {
							if len(fault.All(err)) == 0 {
								t.Fatalf("%s, byte %d: no code in %v", part, i, err)
							}
							refused++
							continue
						}
						accepted++
						if d := cmp.Diff(want, view(got)); d != "" {
							t.Fatalf("%s, byte %d, bit %#x changes the state: %s", part, i, bit, d)
						}
					}
				}
			}
			t.Logf("%d flips refused, %d without effect", refused, accepted)
			if refused < 10*accepted {
				t.Errorf("too many flips without effect: %d of %d", accepted, refused+accepted)
			}
		})
	}
}

func TestFieldsOfABundleAreBound(t *testing.T) {
	trusted, samples := load(t)
	s := samples["active"]
	for name, tc := range map[string]struct {
		change func(*proof.Bundle)
		code   string
	}{
		"another type":              {func(b *proof.Bundle) { b.Type = "x" }, "ton.proof.malformed"},
		"another trusted block":     {func(b *proof.Bundle) { b.Trusted.Seqno++ }, "ton.proof.untrusted"},
		"another address":           {func(b *proof.Bundle) { b.Address = samples["absent"].addr.StringRaw() }, "ton.proof.address"},
		"no links":                  {func(b *proof.Bundle) { b.Links = nil }, "ton.proof.invalid"},
		"another height":            {func(b *proof.Bundle) { b.Links[0].To.Seqno++ }, "ton.proof.invalid"},
		"a link that goes nowhere":  {func(b *proof.Bundle) { b.Links[0].To.Seqno = b.Trusted.Seqno }, "ton.proof.invalid"},
		"not a key block":           {func(b *proof.Bundle) { b.Links[0].KeyBlock = false }, "ton.proof.invalid"},
		"another block":             {func(b *proof.Bundle) { b.Links[0].To.RootHash = b.Trusted.RootHash }, "ton.proof.invalid"},
		"another file":              {func(b *proof.Bundle) { b.Links[0].To.FileHash = b.Trusted.FileHash }, "ton.proof.invalid"},
		"no signatures":             {func(b *proof.Bundle) { b.Links[0].Signatures = nil }, "ton.proof.invalid"},
		"a signature counted twice": {func(b *proof.Bundle) { l := &b.Links[0]; l.Signatures = append(l.Signatures, l.Signatures[0]) }, "ton.proof.invalid"},
		"another validator set":     {func(b *proof.Bundle) { b.Links[0].ValidatorSetHash++ }, "ton.proof.invalid"},
		"another session":           {func(b *proof.Bundle) { b.Links[0].CatchainSeqno++ }, "ton.proof.invalid"},
		"an unknown signer":         {func(b *proof.Bundle) { b.Links[0].Signatures[0].Node = b.Trusted.RootHash }, "ton.proof.invalid"},
		"a hash in upper case":      {func(b *proof.Bundle) { b.Links[0].Signatures[0].Node = "A" + b.Trusted.RootHash[1:] }, "ton.proof.malformed"},
		"no shard proof":            {func(b *proof.Bundle) { b.Shard = [][]byte{} }, "ton.proof.invalid"},
		"proofs swapped":            {func(b *proof.Bundle) { b.Account[0], b.Account[1] = b.Account[1], b.Account[0] }, "ton.proof.invalid"},
		"three proofs":              {func(b *proof.Bundle) { b.Account = append(b.Account, b.Account[0]) }, "ton.proof.malformed"},
		"no state":                  {func(b *proof.Bundle) { b.State = []byte{} }, "ton.proof.unproven"},
	} {
		t.Run(name, func(t *testing.T) {
			var b proof.Bundle
			if err := json.Unmarshal(s.doc, &b); err != nil {
				t.Fatal(err)
			}
			tc.change(&b)
			doc, err := jcs.Marshal(b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := proof.Verify(doc, trusted, s.addr); !fault.Has(err, tc.code) {
				t.Errorf("got %v, want %s", err, tc.code)
			}
		})
	}
}

func TestAccountsWithStorageExtraParse(t *testing.T) {
	// An account of 26 cells and more carries the hash of its storage
	// dictionary; older parsers read the balance from inside that hash.
	b := cell.BeginCell().MustStoreBoolBit(true).MustStoreAddr(address.NewAddress(0, 0, make([]byte, 32))).
		MustStoreVarUInt(30, 7).MustStoreVarUInt(3000, 7).
		MustStoreUInt(1, 3).MustStoreSlice(make([]byte, 32), 256).
		MustStoreUInt(1_800_000_000, 32).MustStoreBoolBit(false).
		MustStoreUInt(47, 64).MustStoreCoins(5).MustStoreBoolBit(false).
		MustStoreUInt(0, 2)
	a, err := proof.ParseAccount(b.EndCell())
	if err != nil || a.Balance.Int64() != 5 || a.LastLT != 47 || a.Status != proof.Uninit || a.LastPaid != 1_800_000_000 {
		t.Errorf("%+v, %v", a, err)
	}
	for name, c := range map[string]*cell.Cell{
		"trailing data":       b.MustStoreUInt(0, 1).EndCell(),
		"an unknown extra":    cell.BeginCell().MustStoreBoolBit(true).MustStoreAddr(a.Address).MustStoreVarUInt(0, 7).MustStoreVarUInt(0, 7).MustStoreUInt(7, 3).EndCell(),
		"nothing":             cell.BeginCell().EndCell(),
		"half an account":     cell.BeginCell().MustStoreUInt(1, 1).EndCell(),
		"an external address": cell.BeginCell().MustStoreUInt(0b101, 3).EndCell(),
	} {
		if got, err := proof.ParseAccount(c); err == nil {
			t.Errorf("%s gave %+v", name, got)
		}
	}
}

func FuzzVerify(f *testing.F) {
	trusted, samples := load(f)
	for _, s := range samples {
		f.Add(s.doc)
	}
	s := samples["active"]
	st, err := proof.Verify(s.doc, trusted, s.addr)
	if err != nil {
		f.Fatal(err)
	}
	want := view(st)
	f.Fuzz(func(t *testing.T, doc []byte) {
		got, err := proof.Verify(doc, trusted, s.addr)
		if err != nil {
			if len(fault.All(err)) == 0 {
				t.Fatalf("no code in %v", err)
			}
			return
		}
		if d := cmp.Diff(want, view(got)); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzDecodeBoC(f *testing.F) {
	_, samples := load(f)
	for _, s := range samples {
		var b proof.Bundle
		if err := json.Unmarshal(s.doc, &b); err != nil {
			f.Fatal(err)
		}
		for _, bag := range append(append(b.Shard, b.Account...), b.State) {
			f.Add(bag)
		}
	}
	f.Fuzz(func(t *testing.T, bag []byte) {
		cs, err := proof.DecodeBoC(bag, 1)
		if err != nil {
			return
		}
		again, err := proof.DecodeBoC(cs[0].ToBOCWithFlags(false), 1)
		if err != nil {
			t.Fatalf("its own serialisation: %v", err)
		}
		if string(again[0].Hash()) != string(cs[0].Hash()) {
			t.Fatal("its own serialisation is another tree")
		}
		if _, err := proof.ParseAccount(cs[0]); err != nil {
			return
		}
	})
}
