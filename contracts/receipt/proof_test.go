package receipt

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInclusionProofRoundTripsAndIsStrict(t *testing.T) {
	leaves := []Hash{sum("1"), sum("2"), sum("3")}
	path, err := Prove(leaves, 1)
	if err != nil {
		t.Fatal(err)
	}
	p := Proof{Seq: 2, Count: 3, Root: Root(leaves), Path: path}
	doc, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseProof(doc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&p, got); diff != "" || !Included(leaves[1], got.Seq-1, got.Count, got.Path, Root(leaves)) {
		t.Error(diff)
	}
	// Each flipped byte is refused, or proves nothing under the true root.
	for i := range doc {
		bad := append([]byte(nil), doc...)
		bad[i] ^= 1
		q, err := ParseProof(bad)
		if err == nil && q.Root == p.Root && Included(leaves[1], q.Seq-1, q.Count, q.Path, p.Root) {
			t.Fatalf("byte %d flipped still proves: %s", i, bad)
		}
	}
	for _, bad := range []string{"", "{}", `{"count":3,"path":null,"root":"","seq":2}`} {
		_, err := ParseProof([]byte(bad))
		want(t, err, "proof.malformed")
	}
}

func FuzzParseProof(f *testing.F) {
	p := Proof{Seq: 1, Count: 1, Root: sum("x")}
	doc, err := p.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProof(b)
		if err != nil {
			return
		}
		if again, err := p.Marshal(); err != nil || string(again) != string(b) {
			t.Fatalf("%s became %s, %v", b, again, err)
		}
	})
}
