package sev_test

import (
	"bytes"
	"errors"
	"testing"

	"cocoon/enclave/platform"
	"cocoon/enclave/seal"
	"cocoon/enclave/sev"
	"cocoon/enclave/teetest"
	"cocoon/verifier/snptest"
	"cocoon/verifier/testfleet"
)

var (
	key = bytes.Repeat([]byte{7}, 96)
)

func guest(t testing.TB) *teetest.Guest {
	t.Helper()
	f, err := testfleet.New("sev")
	if err != nil {
		t.Fatal(err)
	}
	g, err := teetest.NewGuest(f, snptest.Now)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// sealer is that of a guest with the fleet's config, under a network's id.
func sealer(t testing.TB, g *teetest.Guest, network int32) seal.Sealer {
	t.Helper()
	p, err := platform.Open(platform.SNP, g.Sources())
	if err != nil {
		t.Fatal(err)
	}
	config := g.Config
	config.NetworkID = network
	s, err := platform.Sealer(t.Context(), p, platform.Sealing{Config: &config})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestASealedKeyBelongsToWhatWasLaunched seals on one guest and asks for the
// key on others.
func TestASealedKeyBelongsToWhatWasLaunched(t *testing.T) {
	const tcb = 1 << 56 // microcode, the last component
	g := guest(t)
	blob, err := sealer(t, g, 0).Seal(key)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(blob, key[:16]) || len(blob) > seal.MaxBlob {
		t.Fatalf("blob of %d bytes", len(blob))
	}
	for name, c := range map[string]struct {
		change  func(*teetest.Guest)
		network int32
		ok      bool
	}{
		"the same guest, booted again":    {func(*teetest.Guest) {}, 0, true},
		"after an update of the chip":     {func(g *teetest.Guest) { g.CommittedTCB += tcb }, 0, true},
		"after the chip's way back":       {func(g *teetest.Guest) { g.CommittedTCB -= tcb }, 0, false},
		"a later version of the guest":    {func(g *teetest.Guest) { g.GuestSVN++ }, 0, true},
		"an earlier version of the guest": {func(g *teetest.Guest) { g.GuestSVN-- }, 0, false},
		"another image":                   {func(g *teetest.Guest) { g.Measurement[0] ^= 1 }, 0, false},
		"another launch policy":           {func(g *teetest.Guest) { g.Policy ^= 1 << 16 }, 0, false},
		"another chip":                    {func(g *teetest.Guest) { g.Chip = "other" }, 0, false},
		"another config":                  {func(*teetest.Guest) {}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := *g
			c.change(&h)
			got, err := sealer(t, &h, c.network).Unseal(blob)
			if c.ok != (err == nil) || c.ok && !bytes.Equal(got, key) || !c.ok && !errors.Is(err, seal.ErrRefused) {
				t.Errorf("got %x, %v", got, err)
			}
		})
	}
	s := sealer(t, g, 0)
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 1
		if _, err := s.Unseal(bad); !errors.Is(err, seal.ErrRefused) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	if again, err := s.Seal(key); err != nil || bytes.Equal(again, blob) {
		t.Errorf("two seals of a key are equal, %v", err)
	}
	for _, n := range []int{0, seal.MaxKey + 1} {
		if _, err := s.Seal(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is sealed", n)
		}
	}
}

// dead is firmware that gives zeros for a key.
type dead struct{ sev.Device }

func (dead) Key(sev.KeyRequest) ([32]byte, error) { return [32]byte{}, nil }

func TestAKeyOfZerosIsNone(t *testing.T) {
	g := guest(t)
	src := g.Sources()
	src.SNP = dead{g}
	p, err := platform.Open(platform.SNP, src)
	if err != nil {
		t.Fatal(err)
	}
	s, err := platform.Sealer(t.Context(), p, platform.Sealing{Config: &g.Config})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Seal(key); err == nil {
		t.Error("it was used")
	}
}

func FuzzUnseal(f *testing.F) {
	s := sealer(f, guest(f), 0)
	blob, err := s.Seal(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := s.Unseal(b); err == nil && !bytes.Equal(b, blob) {
			t.Errorf("%x is released for %x", got, b)
		} else if err != nil && !errors.Is(err, seal.ErrRefused) {
			t.Error(err)
		}
	})
}
