package tpmdev

import (
	"bytes"
	"errors"
	"testing"

	"cocoon/enclave/seal"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
)

// TestASealedKeyIsReleasedOnlyAfterTheSameMeasurements seals with a real TPM.
func TestASealedKeyIsReleasedOnlyAfterTheSameMeasurements(t *testing.T) {
	dev, _ := power(t)
	pcr, err := dev.Measure([][]byte{[]byte("config"), []byte("latch")})
	if err != nil {
		t.Fatal(err)
	}
	var s seal.Sealer = dev.Sealer()
	secret := bytes.Repeat([]byte{7}, 96)
	blob, err := s.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if len(blob) > seal.MaxBlob || bytes.Contains(blob, secret[:16]) {
		t.Errorf("blob of %d bytes holds the key, or is too long", len(blob))
	}
	for range 2 {
		got, err := s.Unseal(blob)
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("got %x, %v", got, err)
		}
	}
	refused := func(what string, blob []byte) {
		t.Helper()
		if got, err := s.Unseal(blob); !errors.Is(err, seal.ErrRefused) || !fault.Has(err, seal.CodeRefused) || len(got) != 0 {
			t.Errorf("%s: got %x, %v", what, got, err)
		}
	}
	for i := range blob {
		b := bytes.Clone(blob)
		b[i] ^= 1
		refused("a flipped byte", b)
	}
	refused("half a blob", blob[:len(blob)/2])
	refused("a blob and more", append(bytes.Clone(blob), 0))
	refused("nothing", nil)
	other, _ := power(t)
	if _, err := other.Measure([][]byte{[]byte("config"), []byte("latch")}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Sealer().Unseal(blob); !errors.Is(err, seal.ErrRefused) {
		t.Errorf("another TPM: got %v", err)
	}
	if _, err := dev.Extend(pcr, [][]byte{[]byte("one event more")}); err != nil {
		t.Fatal(err)
	}
	refused("other measurements", blob)
}

func TestEveryRegisterOfThePolicyCounts(t *testing.T) {
	dev, _ := power(t)
	s := dev.Sealer()
	before, err := s.policy()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dev.Extend(digest.SHA256{}, [][]byte{[]byte("x")}); err != nil {
		t.Fatal(err)
	}
	if after, err := s.policy(); err != nil || bytes.Equal(before, after) {
		t.Errorf("PCR 15 does not count: %v", err)
	}
	want := map[uint]bool{0: true, 2: true, 4: true, 7: true, 9: true, 11: true, 15: true}
	for _, i := range sealPCRs {
		delete(want, i)
	}
	if len(want) != 0 {
		t.Errorf("not bound to PCRs %v", want)
	}
	if _, err := s.Seal(make([]byte, seal.MaxKey+1)); err == nil {
		t.Error("a key over the limit was sealed")
	}
}

func FuzzSplitBlob(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 1, 0})
	f.Add([]byte{})
	f.Add(append([]byte{0, 2, 0, 8}, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, priv, err := splitBlob(b)
		if err == nil && len(priv.Buffer) > len(b) {
			t.Error("more came out than went in")
		}
	})
}
