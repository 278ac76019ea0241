// Package mrtd computes MRTD, the measurement of a TD's initial memory, from
// a TDVF binary. In comes the parsed firmware, out come 48 bytes for each of
// the two orders in which QEMU builds the memory.
//
// Definitions: Intel TDX Module Base Architecture Specification, section
// "Measurement and attestation: TDMR measurement" (MRTD is a SHA-384 over
// the calls that build the TD) and the calls TDH.MEM.PAGE.ADD and
// TDH.MR.EXTEND; TDX Virtual Firmware Design Guide 344991-004, section 11.
package mrtd

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"

	"cocoon/measurements/digest"
	"cocoon/measurements/tdvf"
)

// Order is the order of the calls for one section.
type Order string

// Orders that are known.
const (
	SinglePass Order = "single-pass" // QEMU 9 and newer: each page is added, then measured
	TwoPass    Order = "two-pass"    // QEMU 8 with TDX: all pages are added, then all are measured
)

// Values are the two MRTDs of one firmware.
type Values struct {
	SinglePass digest.SHA384 `json:"single_pass"`
	TwoPass    digest.SHA384 `json:"two_pass"`
}

// Of returns the value for an order.
func (v Values) Of(o Order) (digest.SHA384, error) {
	switch o {
	case SinglePass:
		return v.SinglePass, nil
	case TwoPass:
		return v.TwoPass, nil
	}
	return digest.SHA384{}, fmt.Errorf("looking up MRTD: order %.32q is unknown", o)
}

// Measure returns both values of a firmware.
func Measure(f *tdvf.Firmware) (Values, error) {
	sections, err := f.TDX()
	if err != nil {
		return Values{}, fmt.Errorf("computing MRTD: %w", err)
	}
	single, two := sha512.New384(), sha512.New384()
	for _, s := range sections {
		for off := uint64(0); off < s.Size; off += tdvf.PageSize {
			addPage(single, s, off)
			extendPage(single, s, off, f.Data)
			addPage(two, s, off)
		}
		for off := uint64(0); off < s.Size; off += tdvf.PageSize {
			extendPage(two, s, off, f.Data)
		}
	}
	return Values{digest.SHA384(single.Sum(nil)), digest.SHA384(two.Sum(nil))}, nil
}

// addPage hashes a TDH.MEM.PAGE.ADD: 128 bytes, the call's name at 0 and the
// page's address at 16.
func addPage(h hash.Hash, s tdvf.Section, off uint64) {
	if s.Attrs&tdvf.AttrPageAug == 0 {
		call(h, "MEM.PAGE.ADD", s.GPA+off)
	}
}

// extendPage hashes the TDH.MR.EXTENDs of a page: for each 256 bytes the call
// as above, then the bytes.
func extendPage(h hash.Hash, s tdvf.Section, off uint64, file []byte) {
	if s.Attrs&tdvf.AttrExtend == 0 {
		return
	}
	const chunk = 256
	for c := off; c < off+tdvf.PageSize; c += chunk {
		call(h, "MR.EXTEND", s.GPA+c)
		at := uint64(s.Offset) + c
		h.Write(file[at : at+chunk])
	}
}

func call(h hash.Hash, name string, gpa uint64) {
	var b [128]byte
	copy(b[:], name)
	binary.LittleEndian.PutUint64(b[16:], gpa)
	h.Write(b[:])
}
