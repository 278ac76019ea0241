package idblock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoon/internal/vectors"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
)

// TestTamperedBlocksAreRefused changes each byte of block and authentication,
// signed by an ID key with an author above it.
func TestTamperedBlocksAreRefused(t *testing.T) {
	p, err := snptest.New("tamper")
	if err != nil {
		t.Fatal(err)
	}
	r := snptest.Default(3, report.Milan, report.VCEK)
	r.IDKey, r.AuthorKey = "id", "author"
	block, auth, err := p.IDBlock(&r)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := Verify(block, auth); err != nil || !b.HasAuthor || b.LaunchDigest != r.LaunchDigest || b.GuestSVN != r.GuestSVN {
		t.Fatalf("%+v, %v", b, err)
	}
	for _, part := range [][]byte{block, auth} {
		for i := range part {
			part[i] ^= 1 << (i % 8)
			if _, err := Verify(block, auth); err == nil {
				t.Errorf("byte %d of %d changed: accepted", i, len(part))
			}
			part[i] ^= 1 << (i % 8)
		}
	}
}

// TestRealAuthorSignatureVerifies takes ID authentication that a real tool
// made; the ID block that its ID key signed is not there.
func TestRealAuthorSignatureVerifies(t *testing.T) {
	auth, err := os.ReadFile(filepath.Join(vectors.Dir(t), "launch", "test_auth_block.bin"))
	if err != nil {
		t.Fatal(err)
	}
	idKey, authorKey, sig := auth[0x240:0x240+keySize], auth[0x880:0x880+keySize], auth[0x680:0x680+sigSize]
	if err := verify(authorKey, sig, idKey); err != nil {
		t.Error(err)
	}
	if err := verify(idKey, sig, idKey); !errors.Is(err, ErrSignature) {
		t.Errorf("by another key: %v", err)
	}
}

func FuzzIDBlock(f *testing.F) {
	p, err := snptest.New("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	r := snptest.Default(3, report.Milan, report.VCEK)
	r.IDKey, r.AuthorKey = "id", "author"
	block, auth, err := p.IDBlock(&r)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := Verify(block, auth); err != nil {
		f.Fatal(err)
	}
	f.Add(block, auth)
	f.Add(make([]byte, 96), make([]byte, 4096))
	f.Fuzz(func(t *testing.T, block, auth []byte) {
		b, err := Verify(block, auth)
		if err == nil && (b.IDKeyDigest == [48]byte{} || b.HasAuthor == (b.AuthorKeyDigest == [48]byte{})) {
			t.Fatalf("accepted %+v", b)
		}
	})
}
