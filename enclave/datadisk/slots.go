package datadisk

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"cocoon/enclave/seal"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// headers reads the slots; nil where one is blank or does not parse. It is
// errBlank where both are blank, and an error where neither has a header.
func (d *disk) headers() ([slots]*Header, error) {
	var out [slots]*Header
	blank, found := 0, 0
	var errs []error
	for i := range out {
		block := make([]byte, headerSize)
		if _, err := d.f.ReadAt(block, int64(i)*headerSize); err != nil {
			return out, fmt.Errorf("reading the data disk: %w", err)
		}
		h, err := ParseHeader(block)
		switch {
		case errors.Is(err, errBlank):
			blank++
		case err != nil:
			errs = append(errs, err)
		default:
			out[i] = h
			found++
		}
	}
	switch {
	case blank == slots:
		return out, errBlank
	case found == 0:
		return out, fault.New(fault.ExitParse, CodeHeader, remedyOther, "%w", errors.Join(errs...))
	}
	return out, nil
}

// key unseals the disk's key from the newest slot that releases it.
func (d *disk) key(s seal.Sealer) ([]byte, error) {
	all, err := d.headers()
	if err != nil {
		return nil, err
	}
	found := slices.DeleteFunc(all[:], func(h *Header) bool { return h == nil })
	slices.SortStableFunc(found, func(a, b *Header) int {
		switch {
		case a.Seq > b.Seq:
			return -1
		case a.Seq < b.Seq:
			return 1
		}
		return 0
	})
	var refused error
	for _, h := range found {
		if h.Sealer != s.Name() {
			continue
		}
		key, err := s.Unseal(h.Key)
		switch {
		case err == nil && len(key) != keySize:
			return nil, fault.New(fault.ExitRefused, CodeHeader, remedyOther, "unsealing the data disk's key: %d bytes, want %d", len(key), keySize)
		case err == nil:
			return key, nil
		case !errors.Is(err, seal.ErrRefused):
			return nil, err
		}
		if refused == nil {
			refused = err // of the newest
		}
	}
	if refused == nil {
		return nil, fault.Mismatch(fault.ExitRefused, CodeHeader, "who sealed the data disk's key", s.Name(), found[0].Sealer, remedyOther)
	}
	return nil, refused
}

// writeHeader writes a header, as the newest, over the older of the slots: one
// that is blank or broken first. The newest stays as it is.
func (d *disk) writeHeader(h *Header) error {
	all, err := d.headers()
	if err != nil && !errors.Is(err, errBlank) && !fault.Has(err, CodeHeader) {
		return err
	}
	to := 0
	seq := func(i int) uint64 {
		if all[i] == nil {
			return 0
		}
		return all[i].Seq + 1 // before any that is there
	}
	if seq(1) < seq(0) {
		to = 1
	}
	next := *h
	next.Seq = max(seq(0), seq(1))
	block, err := next.Marshal()
	if err != nil {
		return err
	}
	if _, err = d.f.WriteAt(block, int64(to)*headerSize); err == nil {
		err = d.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing the data disk's header: %w", err)
	}
	return nil
}

// NewTicket seals a key that was handed over, for the boot that has the disk.
// What comes out is nobody's secret: the host keeps it and gives it back.
func NewTicket(key []byte, s seal.Sealer) ([]byte, error) {
	if len(key) != keySize {
		return nil, fault.New(fault.ExitRefused, CodeHeader, remedyOther, "sealing the data disk's key: %d bytes, want %d", len(key), keySize)
	}
	blob, err := s.Seal(key)
	if err != nil {
		return nil, err
	}
	return jcs.Marshal(&Header{Format: Format, Sealer: s.Name(), Key: blob})
}

// MaxTicket bounds a ticket, in bytes.
const MaxTicket = headerSize

// takeOver opens the disk with a ticket and only then writes its header: a
// ticket for another disk changes nothing. A boot that ends in between takes
// the ticket again.
func (d *disk) takeOver(s seal.Sealer, ticket []byte, refused error) error {
	if len(ticket) > MaxTicket {
		return fault.New(fault.ExitParse, CodeHeader, "give the ticket as the machine reported it", "reading ticket: %d bytes, at most %d", len(ticket), MaxTicket)
	}
	h, err := ParseHeader(append(bytes.Clone(ticket), make([]byte, headerSize-len(ticket))...))
	if err != nil {
		return fault.New(fault.ExitParse, CodeHeader, "give the ticket as the machine reported it", "reading ticket: %w", err)
	}
	if h.Sealer != s.Name() {
		return errors.Join(refused, fault.Mismatch(fault.ExitRefused, CodeHeader, "who sealed the ticket's key", s.Name(), h.Sealer, remedyOther))
	}
	key, err := s.Unseal(h.Key)
	if err != nil {
		return errors.Join(refused, fmt.Errorf("reading ticket: %w", err))
	}
	defer clear(key)
	if len(key) != keySize {
		return fault.New(fault.ExitRefused, CodeHeader, remedyOther, "reading ticket: key of %d bytes, want %d", len(key), keySize)
	}
	if err := d.open(key); err != nil {
		return err
	}
	return d.writeHeader(h)
}
