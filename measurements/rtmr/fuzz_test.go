package rtmr

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/vectors"
	"cocoon/measurements/ovmftest"
	"cocoon/measurements/tdvf"
)

// tdvfSections finds the list of sections, in the firmware that ovmftest makes.
func tdvfSections(t testing.TB, b []byte) int {
	t.Helper()
	at := bytes.LastIndex(b, []byte("TDVF"))
	if at < 0 {
		t.Fatal("the firmware describes no TD")
	}
	return at
}

// TestAnyChangedByteOfTheLayoutIsSeen flips each bit of the sections that the
// layout is read from.
func TestAnyChangedByteOfTheLayoutIsSeen(t *testing.T) {
	good := ovmftest.Firmware(t, ovmftest.Options{Version: "2026.08"})
	f, err := tdvf.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ReadHOB(f)
	if err != nil {
		t.Fatal(err)
	}
	// Behind the header and the two sections of code and configuration.
	first := tdvfSections(t, good) + 16 + 2*32
	same := 0
	for i := first; i < first+2*32; i++ {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			f, err := tdvf.Parse(bad)
			if err != nil {
				continue
			}
			if got, err := ReadHOB(f); err == nil && cmp.Equal(want, got) {
				same++
				// Attributes of memory that has no content, where that content would be and
				// its size are no part of the layout: MRTD has the page that they stand in.
				if at := (i - first) % 32; at >= 8 && at < 28 {
					t.Errorf("byte %d, bit %d of the sections flipped: the layout is the same", i-first, bit)
				}
			}
		}
	}
	if same > 2*12*8 {
		t.Errorf("%d changes leave the layout as it was", same)
	}
}

func FuzzReadHOB(f *testing.F) {
	seed := ovmftest.Firmware(f, ovmftest.Options{Version: "2026.08"})
	f.Add(seed, uint64(2<<30))
	f.Add(seed, uint64(1<<40))
	twice := bytes.Clone(seed)
	binary.LittleEndian.PutUint32(twice[tdvfSections(f, seed)+16+3*32+24:], tdvf.TDHOB)
	f.Add(twice, uint64(2<<30))
	if dir := vectors.Find(); dir != "" {
		b, err := os.ReadFile(filepath.Join(dir, "launch", "ovmf_OvmfX64_suffix.bin"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint64(4<<30))
	}
	f.Fuzz(func(t *testing.T, b []byte, memory uint64) {
		fw, err := tdvf.Parse(b)
		if err != nil {
			return
		}
		h, err := ReadHOB(fw)
		if err != nil {
			return
		}
		if err := h.Validate(); err != nil {
			t.Fatalf("a layout is read and refused: %v", err)
		}
		list, err := h.Bytes(memory)
		if err != nil {
			return
		}
		end, got := read(t, list)
		if end != h.Base+uint64(len(list))+8 {
			t.Fatalf("the list ends at %#x", end)
		}
		var total, at uint64
		for _, s := range got {
			if s.length == 0 || s.start < at {
				t.Fatalf("memory %+v after %#x", s, at)
			}
			at, total = s.start+s.length, total+s.length
		}
		if total != memory {
			t.Fatalf("%#x of %#x bytes of memory are described", total, memory)
		}
	})
}
