package nvgpu

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"cocoon/verifier/nvgpu/spdm"
)

// Extensions that carry the firmware ID of a key (TCG DICE Attestation
// Architecture 1.0): DiceTcbInfo, section 6.1.1, on Blackwell; the
// CompositeDeviceID of TCG's earlier "Implicit Identity Based Device
// Attestation", section 3.2.2, on Hopper and its switch.
var (
	oidCompositeDeviceID = asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1}
	oidTCBInfo           = asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1, 1}
	oidSHA384            = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
)

type fwid struct {
	Algorithm asn1.ObjectIdentifier
	Digest    []byte
}

type compositeDeviceID struct {
	Version  int
	DeviceID asn1.RawValue // SubjectPublicKeyInfo of the layer below
	FWID     fwid
}

var errFWID = errors.New("certificate has no firmware ID of SHA-384")

// fwidOf returns the firmware ID, 48 bytes, that a leaf certificate was made
// for. Exactly one of the extensions must be there.
func fwidOf(leaf *x509.Certificate) ([]byte, error) {
	var found *fwid
	for _, e := range leaf.Extensions {
		var f *fwid
		var err error
		switch {
		case e.Id.Equal(oidCompositeDeviceID):
			f, err = fwidComposite(e.Value)
		case e.Id.Equal(oidTCBInfo):
			f, err = fwidTCBInfo(e.Value)
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		if found != nil {
			return nil, errors.New("certificate has two firmware IDs")
		}
		found = f
	}
	if found == nil || !found.Algorithm.Equal(oidSHA384) || len(found.Digest) != spdm.ValueSize {
		return nil, errFWID
	}
	return found.Digest, nil
}

func fwidComposite(der []byte) (*fwid, error) {
	var id compositeDeviceID
	if rest, err := asn1.Unmarshal(der, &id); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("reading CompositeDeviceID: %w", errors.Join(err, trailing(rest)))
	}
	return &id.FWID, nil
}

// fwidTCBInfo reads the first entry of fwids, field [6] of DiceTcbInfo.
func fwidTCBInfo(der []byte) (*fwid, error) {
	var seq asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &seq); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("reading DiceTcbInfo: %w", errors.Join(err, trailing(rest)))
	}
	if seq.Class != asn1.ClassUniversal || seq.Tag != asn1.TagSequence || !seq.IsCompound {
		return nil, errors.New("reading DiceTcbInfo: not a sequence")
	}
	last := -1
	var list []byte
	for rest := seq.Bytes; len(rest) > 0; {
		var field asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &field); err != nil {
			return nil, fmt.Errorf("reading DiceTcbInfo: %w", err)
		}
		if field.Class != asn1.ClassContextSpecific || field.Tag <= last {
			return nil, errors.New("reading DiceTcbInfo: fields are out of order")
		}
		if last = field.Tag; last == 6 {
			list = field.Bytes
		}
	}
	if list == nil {
		return nil, errFWID
	}
	var f fwid
	if _, err := asn1.Unmarshal(list, &f); err != nil {
		return nil, fmt.Errorf("reading DiceTcbInfo: %w", err)
	}
	return &f, nil
}

func trailing(rest []byte) error {
	if len(rest) > 0 {
		return fmt.Errorf("%d bytes after it", len(rest))
	}
	return nil
}
