package report

import (
	"encoding/binary"
	"fmt"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/uuid"
)

// Bounds of a certificate table.
const (
	MaxTable   = 1 << 16 // bytes; Linux hands out 16 KiB at most
	maxEntries = 16
)

// Table has the certificates of an extended report's table, each nil where it
// is absent. They are the host's word: untrusted, as any other input.
type Table struct {
	VCEK, VLEK, ASK, ARK []byte
}

// Leaf returns the certificate of a kind of key.
func (t *Table) Leaf(s Signer) []byte {
	switch s {
	case VCEK:
		return t.VCEK
	case VLEK:
		return t.VLEK
	}
	return nil
}

// Split cuts an extended report into report and table. What is as long as a
// report has an empty table.
func Split(raw []byte) ([]byte, *Table, error) {
	if len(raw) <= Size {
		return raw, &Table{}, nil
	}
	t, err := parseTable(raw[Size:])
	if err != nil {
		return nil, nil, fmt.Errorf("reading certificate table: %w", err)
	}
	return raw[:Size], t, nil
}

// parseTable reads entries of 24 bytes {GUID, offset, length}, ended by one
// that is all zero, and what they point to (AMD 56421, section 4.1.8.1).
// Entries with GUIDs of no interest here are not looked into.
func parseTable(b []byte) (*Table, error) {
	if len(b) > MaxTable {
		return nil, fmt.Errorf("%d bytes, limit %d: %w", len(b), MaxTable, ErrMalformed)
	}
	t := &Table{}
	if isZero(b) {
		return t, nil
	}
	want := map[uuid.UUID]*[]byte{
		uuid.MustParse(abi.VcekGUID): &t.VCEK, uuid.MustParse(abi.VlekGUID): &t.VLEK,
		uuid.MustParse(abi.AskGUID): &t.ASK, uuid.MustParse(abi.ArkGUID): &t.ARK,
	}
	type entry struct{ offset, length uint64 }
	seen := map[uuid.UUID]entry{}
	head := 0
	for {
		if head+abi.CertTableEntrySize > len(b) {
			return nil, fmt.Errorf("no last entry: %w", ErrMalformed)
		}
		e := b[head : head+abi.CertTableEntrySize]
		head += abi.CertTableEntrySize
		if isZero(e) {
			break
		}
		guid := uuid.UUID(e[:16])
		if _, twice := seen[guid]; twice || len(seen) == maxEntries {
			return nil, fmt.Errorf("entry %s is there twice, or there are more than %d: %w", guid, maxEntries, ErrMalformed)
		}
		seen[guid] = entry{uint64(binary.LittleEndian.Uint32(e[16:])), uint64(binary.LittleEndian.Uint32(e[20:]))}
	}
	for guid, e := range seen {
		if e.offset < uint64(head) || e.offset+e.length > uint64(len(b)) {
			return nil, fmt.Errorf("entry %s points outside of the table: %w", guid, ErrMalformed)
		}
		if to := want[guid]; to != nil && e.length > 0 {
			*to = append([]byte(nil), b[e.offset:e.offset+e.length]...)
		}
	}
	return t, nil
}
