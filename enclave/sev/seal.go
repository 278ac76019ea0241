package sev

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"cocoon/enclave/seal"
	"cocoon/measurements/digest"
)

// sealFields are all that the firmware mixes into a key: the launch policy (so
// a debug guest has other keys), image and family, the launch digest, the
// guest's security version and the chip's TCB. HOST_DATA, which is the config's
// hash, is not among them: the wrapping key has that from the config itself,
// which Launched held against HOST_DATA.
const sealFields = FieldPolicy | FieldImageID | FieldFamilyID | FieldMeasurement | FieldGuestSVN | FieldTCB

// SealerName is seal.Header's name for this sealer, and the label of its keys.
const SealerName = "snp-derived-key"

// blobHeader is what a sealed key begins with: version 1, VMPL, guest SVN and
// TCB version, little-endian. They say which key to ask for: the firmware gives
// those of the guest's own and of lower versions, so a key sealed before an
// update of the chip is released after it, and not after the way back. The host
// can write them and gets another key.
const (
	blobVersion = 1
	blobHeader  = 1 + 4 + 4 + 8
)

// Sealer seals to the chip and to what it launched (AMD 56860, MSG_KEY_REQ).
type Sealer struct {
	device Device
	random io.Reader
	config digest.SHA256
	now    KeyRequest // for keys that are sealed from now on
}

// Sealer returns the guest's sealer for its measured config.
func (g *Guest) Sealer(ctx context.Context, config digest.SHA256, random io.Reader) (*Sealer, error) {
	r, _, _, err := g.Report(ctx, [64]byte{})
	if err != nil {
		return nil, err
	}
	return &Sealer{device: g.Device, random: random, config: config, now: KeyRequest{
		Fields: sealFields, VMPL: r.VMPL, GuestSVN: r.GuestSVN, TCB: binary.LittleEndian.Uint64(r.CommittedTCB.Raw[:])}}, nil
}

// Name implements seal.Sealer.
func (*Sealer) Name() string { return SealerName }

func (s *Sealer) wrapping(r KeyRequest) ([]byte, error) {
	root, err := s.device.Key(r)
	if err != nil {
		return nil, fmt.Errorf("deriving key: %w", err)
	}
	defer clear(root[:])
	return seal.WrappingKey(root[:], s.config, SealerName)
}

// Seal implements seal.Sealer.
func (s *Sealer) Seal(key []byte) ([]byte, error) {
	w, err := s.wrapping(s.now)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	defer clear(w)
	le := binary.LittleEndian
	h := le.AppendUint32([]byte{blobVersion}, s.now.VMPL)
	h = le.AppendUint64(le.AppendUint32(h, s.now.GuestSVN), s.now.TCB)
	return seal.Wrap(w, h, key, s.random)
}

// Unseal implements seal.Sealer.
func (s *Sealer) Unseal(blob []byte) ([]byte, error) {
	if len(blob) < blobHeader+seal.Overhead || len(blob) > seal.MaxBlob || blob[0] != blobVersion {
		return nil, seal.Refused(fmt.Errorf("sealed key of %d bytes is of another form", len(blob)))
	}
	le := binary.LittleEndian
	w, err := s.wrapping(KeyRequest{Fields: sealFields, VMPL: le.Uint32(blob[1:]), GuestSVN: le.Uint32(blob[5:]), TCB: le.Uint64(blob[9:])})
	if err != nil {
		return nil, seal.Refused(err)
	}
	defer clear(w)
	return seal.Unwrap(w, blob, blobHeader)
}
