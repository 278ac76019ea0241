package snp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/vectors"
	"cocoon/measurements/digest"
)

// TestTheReferenceIDAuthVerifies reads the structure of the reference
// implementation: its author's signature over the ID key must hold, its ID
// signature must be the one that stands beside it.
func TestTheReferenceIDAuthVerifies(t *testing.T) {
	dir := filepath.Join(vectors.Dir(t), "launch")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	raw := read("test_auth_block.bin")
	a, err := ParseIDAuth(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.VerifyKey(); err != nil {
		t.Error(err)
	}
	if !cmp.Equal(a.BlockSignature[:], read("test_id_sig.bin")) || !cmp.Equal(a.KeySignature[:], read("test_auth_sig.bin")) {
		t.Error("the signatures are not those of the reference")
	}
	if !cmp.Equal(a.Bytes(), raw) {
		t.Error("the structure does not come out as it went in")
	}
	ld, err := digest.Parse384("a14d638341e5674628fe1e02fbedebe5e5ab4faf1dd72d8966068e615bb99efd13d214b35c231715b38e263dc6059745")
	if err != nil {
		t.Fatal(err)
	}
	block := &IDBlock{Digest: ld, Policy: 0x30000}
	for what, v := range map[string][2]string{
		"ID block": {base64.StdEncoding.EncodeToString(block.Bytes()),
			"oU1jg0HlZ0Yo/h4C++3r5eWrT68d1y2JZgaOYVu5nv0T0hSzXCMXFbOOJj3GBZdFAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAwAAAAAA"},
		"ID key digest":     {encode(a.IDKeyDigest()), "WfssaG36T+9J84M5qndckAUcKNVzg93DuvO160sUlt87DbvcuuX+J2d6ZEggdz/i"},
		"author key digest": {encode(a.AuthorKeyDigest()), "7tgRafsMteDsNHlPEo/U4MSkb2fGWhrfqB/LJLzAiMJyNpt//D6ytq9qQoShs2xf"},
	} {
		if v[0] != v[1] {
			t.Errorf("%s is %s, want %s", what, v[0], v[1])
		}
	}
	if err := a.Verify(block); err != nil {
		t.Error(err)
	}
	if err := a.Verify(&IDBlock{}); !errors.Is(err, ErrIDBlock) {
		t.Errorf("an ID block that it does not sign: %v", err)
	}
}

func encode(d digest.SHA384) string { return base64.StdEncoding.EncodeToString(d[:]) }

func idKeys(t testing.TB) (id, author *ecdsa.PrivateKey) {
	t.Helper()
	for _, k := range []**ecdsa.PrivateKey{&id, &author} {
		var err error
		if *k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	return id, author
}

func TestASignedIDBlockVerifiesAndNoOther(t *testing.T) {
	id, author := idKeys(t)
	b := &IDBlock{Digest: digest.Sum384([]byte("launch")), FamilyID: [16]byte{1}, ImageID: [16]byte{2}, GuestSVN: 3, Policy: 0x30000}
	a, err := SignIDBlock(b, id, author)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Verify(b); err != nil {
		t.Fatal(err)
	}
	again, err := ParseIDBlock(b.Bytes())
	if err != nil || !cmp.Equal(again, b) {
		t.Errorf("the block comes back as %+v: %v", again, err)
	}
	raw := a.Bytes()
	for i := 0; i < len(raw); i++ { // every byte counts
		if i > 0xD00 && i%64 != 0 || i > 0x700 && i < 0x880 && i%64 != 0 || i > 0x2d8 && i < 0x680 && i%64 != 0 {
			continue // reserved areas: a sample
		}
		bad := append([]byte{}, raw...)
		bad[i] ^= 0x40
		c, err := ParseIDAuth(bad)
		if err == nil {
			err = c.Verify(b)
		}
		if err == nil {
			t.Errorf("a structure with byte %#x changed is accepted", i)
		}
	}
	for i, c := range b.Bytes() {
		bad := b.Bytes()
		bad[i] = c ^ 1
		other, err := ParseIDBlock(bad)
		if err == nil {
			err = a.Verify(other)
		}
		if err == nil {
			t.Errorf("a block with byte %d changed is accepted", i)
		}
	}
	alone, err := SignIDBlock(b, id, nil)
	if err != nil || alone.Verify(b) != nil || !alone.AuthorKeyDigest().IsZero() || alone.IDKeyDigest() != a.IDKeyDigest() {
		t.Errorf("a block without an author: %v", err)
	}
}

func FuzzParseIDAuth(f *testing.F) {
	f.Add(make([]byte, IDAuthSize))
	f.Add((&IDAuth{HasAuthor: true}).Bytes())
	f.Add((&IDAuth{}).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseIDAuth(b)
		if err != nil {
			return
		}
		if !cmp.Equal(a.Bytes(), b) {
			t.Error("the structure does not come out as it went in")
		}
		if a.Verify(&IDBlock{}) == nil {
			t.Error("a block is accepted that nobody signed")
		}
	})
}
