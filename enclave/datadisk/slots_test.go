package datadisk

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"cocoon/enclave/seal"
	"cocoon/internal/fault"
)

// boot opens a machine's disk as an image that seals by a mark.
func boot(t *testing.T, m *machine, mark byte, ticket []byte) error {
	t.Helper()
	m.calls, m.tables = nil, nil
	_, err := Open(t.Context(), m, Options{Sealer: always(safe{mark}), Ticket: ticket, Random: endless(0xab)})
	return err
}

// handed is a ticket for the next image.
func handed(t *testing.T, m *machine, from, to byte) []byte {
	t.Helper()
	key, err := Key(m, safe{from})
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := NewTicket(key, safe{to})
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func TestADiskGoesFromImageToImage(t *testing.T) {
	m := newMachine(t, 64<<20)
	if err := boot(t, m, 1, nil); err != nil {
		t.Fatal(err)
	}
	key := strings.Repeat("ab", keySize)
	for next := byte(2); next < 6; next++ {
		if err := boot(t, m, next, nil); !fault.Has(err, seal.CodeRefused) {
			t.Fatalf("image %d without a ticket: %v", next, err)
		}
		if err := boot(t, m, next, handed(t, m, next-1, next)); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(m.tables[1], key) {
			t.Fatalf("image %d opens with another key", next)
		}
		// From now on without the ticket, and the one before it still can: an
		// upgrade that fails goes back.
		for _, mark := range []byte{next, next - 1} {
			if err := boot(t, m, mark, nil); err != nil {
				t.Errorf("image %d after the hand-over to %d: %v", mark, next, err)
			}
		}
		if next > 2 {
			if err := boot(t, m, next-2, nil); !fault.Has(err, seal.CodeRefused) {
				t.Errorf("image %d after the hand-over to %d: %v", next-2, next, err)
			}
		}
	}
}

// TestAHeaderThatIsCutShort ends the write of a ticket's header at each
// sector, and breaks either slot: the other one still opens the disk.
func TestAHeaderThatIsCutShort(t *testing.T) {
	m := newMachine(t, 64<<20)
	if err := boot(t, m, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := boot(t, m, 2, handed(t, m, 1, 2)); err != nil {
		t.Fatal(err)
	}
	before := slotBytes(t, m)
	third := handed(t, m, 2, 3)
	if err := boot(t, m, 3, third); err != nil {
		t.Fatal(err)
	}
	after := slotBytes(t, m)
	for n := 0; n <= len(after); n += 512 {
		torn := append(bytes.Clone(after[:n]), before[n:]...)
		put(t, m, torn)
		if err := boot(t, m, 2, nil); err != nil {
			t.Errorf("%d bytes written: the older image: %v", n, err)
		}
		if err := boot(t, m, 3, third); err != nil {
			t.Errorf("%d bytes written: the newer image, with its ticket again: %v", n, err)
		}
		if err := boot(t, m, 3, nil); err != nil {
			t.Errorf("%d bytes written: and then without: %v", n, err)
		}
		if err := boot(t, m, 2, nil); err != nil {
			t.Errorf("%d bytes written: the older image, after that: %v", n, err)
		}
	}
}

func slotBytes(t *testing.T, m *machine) []byte {
	t.Helper()
	b, err := os.ReadFile(m.path)
	if err != nil {
		t.Fatal(err)
	}
	return b[:slots*headerSize]
}

func put(t *testing.T, m *machine, b []byte) {
	t.Helper()
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

// blind is a sealer whose service is away.
type blind struct{ safe }

var errAway = errors.New("the sealing enclave is away")

func (blind) Unseal([]byte) ([]byte, error) { return nil, errAway }

func TestTicketsThatOpenNothing(t *testing.T) {
	m := newMachine(t, 64<<20)
	if err := boot(t, m, 1, nil); err != nil {
		t.Fatal(err)
	}
	good := handed(t, m, 1, 2)
	before := slotBytes(t, m)
	short, err := safe{2}.Seal([]byte("short"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := (&Header{Format: Format, Sealer: "other", Key: []byte{1}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	brief, err := (&Header{Format: Format, Sealer: "test", Key: short}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ticket []byte
		fail   string
		code   string
	}{
		"empty":                     {[]byte{}, "", CodeHeader},
		"not a header":              {[]byte("x"), "", CodeHeader},
		"too long":                  {make([]byte, MaxTicket+1), "", CodeHeader},
		"sealed to another machine": {handed(t, m, 1, 3), "", seal.CodeRefused},
		"sealed by another sealer":  {bytes.TrimRight(other, "\x00"), "", CodeHeader},
		"of another length":         {bytes.TrimRight(brief, "\x00"), "", CodeHeader},
		"of another disk":           {good, "mount /dev/dm-data /run/cocoon/data", CodeMount},
	} {
		m.fail = c.fail
		if err := boot(t, m, 2, c.ticket); !fault.Has(err, c.code) {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
		m.fail = ""
		if !bytes.Equal(slotBytes(t, m), before) {
			t.Errorf("%s: the disk was written to", name)
		}
	}
	// A ticket never stands in for a sealer that cannot answer.
	if _, err := Open(t.Context(), m, Options{Sealer: always(blind{safe{2}}), Ticket: good, Random: endless(1)}); !errors.Is(err, errAway) {
		t.Errorf("with a sealer that is away: %v", err)
	}
	// Nor makes it a disk out of a blank one with a key from elsewhere.
	blank := newMachine(t, 64<<20)
	if err := boot(t, blank, 2, good); err != nil {
		t.Fatal(err)
	}
	if key, err := Key(blank, safe{2}); err != nil || !bytes.Equal(key, bytes.Repeat([]byte{0xab}, keySize)) {
		t.Errorf("a blank disk's key is %x, %v", key, err)
	}
	if _, err := NewTicket([]byte("short"), safe{2}); err == nil {
		t.Error("a ticket for a short key")
	}
	if _, err := Key(&machine{}, safe{1}); !fault.Has(err, CodeOpen) {
		t.Errorf("the key of no disk: %v", err)
	}
}
