package verdictcell

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/toncell"
)

func sum(s string) [32]byte { return sha256.Sum256([]byte(s)) }

func key(name string) ed25519.PrivateKey {
	seed := sum("verdict test " + name)
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(name string) ed25519.PublicKey { return key(name).Public().(ed25519.PublicKey) }

func common() Common {
	return Common{
		GlobalID: -239, Registry: toncell.Address{Hash: sum("registry")}, TrustClass: TDX, ReceiptKey: sum("receipt"),
		Payout: toncell.Address{Hash: sum("payout")}, Manifest: sum("manifest"), ModelRoot: sum("model"),
		PolicyHash: sum("policy"), EvidenceSHA256: sum("evidence"),
	}
}

func verdict(t testing.TB, names ...string) *Verdict {
	t.Helper()
	c := common()
	hash, err := c.Hash()
	if err != nil {
		t.Fatal(err)
	}
	var sigs []Signature
	for i, n := range names {
		s, err := Sign(key(n), hash, uint64(1000+i), 2000)
		if err != nil {
			t.Fatal(err)
		}
		sigs = append(sigs, s)
	}
	v, err := New(c, sigs...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The hash is what contracts and verifiers of other languages must arrive at.
func TestVerdictHashIsFixed(t *testing.T) {
	c := common()
	hash, err := c.Hash()
	if err != nil {
		t.Fatal(err)
	}
	const want = "258b6ac34f8bb21b03936950a747a1d8d01bb8907feed5ce1b82e1575edd85bb"
	if got := hex.EncodeToString(hash[:]); got != want {
		t.Errorf("verdict hash %s, want %s: the format has changed", got, want)
	}
}

func TestEveryFieldIsInTheHash(t *testing.T) {
	c := common()
	base, err := c.Hash()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[32]byte]string{base: "nothing"}
	for name, change := range map[string]func(*Common){
		"global id": func(c *Common) { c.GlobalID++ }, "registry": func(c *Common) { c.Registry.Hash[0]++ },
		"workchain": func(c *Common) { c.Registry.Workchain-- }, "trust class": func(c *Common) { c.TrustClass = SNP },
		"receipt key": func(c *Common) { c.ReceiptKey[31]++ }, "payout": func(c *Common) { c.Payout.Hash[0]++ },
		"manifest": func(c *Common) { c.Manifest[0]++ }, "model": func(c *Common) { c.ModelRoot[0]++ },
		"policy": func(c *Common) { c.PolicyHash[0]++ }, "evidence": func(c *Common) { c.EvidenceSHA256[0]++ },
	} {
		c := common()
		change(&c)
		hash, err := c.Hash()
		if err != nil {
			t.Fatal(err)
		}
		if was, dup := seen[hash]; dup {
			t.Errorf("changing %s gives the hash of changing %s", name, was)
		}
		seen[hash] = name
	}
}

func TestVerdictRoundTrips(t *testing.T) {
	for _, names := range [][]string{{"a"}, {"a", "b", "c"}} {
		v := verdict(t, names...)
		text, err := v.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Verdict
		if err := got.UnmarshalText(text); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(*v, got); diff != "" {
			t.Error(diff)
		}
	}
	from, until := verdict(t, "a", "b", "c").Interval()
	if from != 1002 || until != 2000 {
		t.Errorf("interval %d to %d", from, until)
	}
}

func TestSignatures(t *testing.T) {
	v := verdict(t, "a")
	hash, err := v.Hash()
	if err != nil {
		t.Fatal(err)
	}
	s := v.Signatures[0]
	if !s.Verify(public("a"), hash) {
		t.Error("a good signature is refused")
	}
	if s.Verify(public("b"), hash) || s.Verify(nil, hash) || s.Verify(public("a"), sum("other")) {
		t.Error("a signature holds for another key or verdict")
	}
	for i := range s.Sig {
		bad := s
		bad.Sig[i] ^= 1
		if bad.Verify(public("a"), hash) {
			t.Errorf("byte %d of the signature does not count", i)
		}
	}
	for _, change := range []func(*Signature){
		func(s *Signature) { s.IssuedAt-- }, func(s *Signature) { s.ExpiresAt++ }, func(s *Signature) { s.KeyID[0]++ },
	} {
		bad := s
		change(&bad)
		if bad.Verify(public("a"), hash) {
			t.Error("a field of the statement is not signed")
		}
	}
	for _, times := range [][2]uint64{{5, 5}, {6, 5}, {0, MaxSeconds + 1}} {
		if _, err := Sign(key("a"), hash, times[0], times[1]); err == nil {
			t.Errorf("signed for %d to %d", times[0], times[1])
		}
	}
}

func TestListsThatNobodyShouldWrite(t *testing.T) {
	v := verdict(t, "a", "b")
	a, b := v.Signatures[0], v.Signatures[1]
	if _, err := New(common(), a, a); err == nil {
		t.Error("one key signed twice")
	}
	if _, err := New(common()); err == nil {
		t.Error("nobody signed")
	}
	for name, list := range map[string][]Signature{"out of order": {b, a}, "twice": {a, a}, "none": nil} {
		if _, err := (&Verdict{Common: common(), Signatures: list}).Cell(); err == nil {
			t.Errorf("%s: a cell was built", name)
		}
	}
	many := &Verdict{Common: common()}
	for i := range MaxSignatures + 1 {
		many.Signatures = append(many.Signatures, Signature{KeyID: [32]byte{byte(i + 1)}})
	}
	if _, err := many.Cell(); err == nil {
		t.Error("too many signatures")
	}
}

func TestTrustClasses(t *testing.T) {
	for c, name := range map[TrustClass]string{VTPM: "vtpm", TDX: "tdx", SNP: "snp", SGX: "sgx", AzTDX: "az-tdx", AzSNP: "az-snp"} {
		got, err := ParseTrustClass(name)
		if err != nil || got != c || c.String() != name || !c.Known() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := ParseTrustClass("VTPM"); err == nil {
		t.Error("another spelling was read")
	}
	if TrustClass(32).Bit() != 0 || TrustClass(200).String() != "class-200" || TrustClass(0).Known() {
		t.Error("classes out of range")
	}
	if diff := cmp.Diff([]TrustClass{VTPM, SNP}, Classes(VTPM.Bit()|SNP.Bit())); diff != "" {
		t.Error(diff)
	}
}

// Flip each bit of a verdict's encoding: it is not read, or no signature holds.
func TestTamperMatrix(t *testing.T) {
	v := verdict(t, "a")
	root, err := v.Cell()
	if err != nil {
		t.Fatal(err)
	}
	boc := root.ToBOC()
	for i := range boc {
		for bit := range 8 {
			bad := append([]byte(nil), boc...)
			bad[i] ^= 1 << bit
			c, err := toncell.ParseBOC(bad, toncell.Limits{Bytes: MaxBOC, Cells: 32, Depth: 32})
			if err != nil {
				continue
			}
			got, err := FromCell(c)
			if err != nil {
				continue
			}
			hash, err := got.Hash()
			if err != nil {
				continue
			}
			if cmp.Equal(v, got) {
				continue // a flag of the encoding, not of the content
			}
			if got.Signatures[0].Verify(public("a"), hash) {
				t.Fatalf("bit %d of byte %d does not count", bit, i)
			}
		}
	}
}

func FuzzUnmarshalText(f *testing.F) {
	for _, names := range [][]string{{"a"}, {"a", "b"}} {
		text, err := verdict(f, names...).MarshalText()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var v Verdict
		if err := v.UnmarshalText(text); err != nil {
			return
		}
		again, err := v.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var w Verdict
		if err := w.UnmarshalText(again); err != nil || !cmp.Equal(v, w) {
			t.Fatalf("%+v became %+v, %v", v, w, err)
		}
	})
}
