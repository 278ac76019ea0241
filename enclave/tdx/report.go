// Package tdx is the supervisor's side of an Intel TD: its own report, the
// runtime measurement register that it extends, and quotes. In go events and
// 64 bytes of report data, out come quotes.
//
// Definitions: Intel TDX Module Base Architecture Specification (TDREPORT,
// TDG.MR.RTMR.EXTEND), Linux drivers/virt/coco/tdx-guest and
// Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest.
package tdx

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ReportSize is the length of a TDREPORT in bytes: REPORTMACSTRUCT, TEE TCB
// info, 17 reserved, TD info.
const ReportSize = 1024

// Offsets in a TDREPORT.
const (
	atType       = 0
	atReportData = 128
	atAttributes = 512
	atMRConfigID = 576
	atRTMR       = 720 // four of 48 bytes
)

// typeTDX is REPORTTYPE's first byte.
const typeTDX = 0x81

// attributeDebug is bit 0 of ATTRIBUTES: the host may read the TD's memory.
const attributeDebug = 1

// Report is what a TD's own report says. It comes from the TDX module over a
// call that the host has no part in.
type Report struct {
	Raw        []byte
	ReportData [64]byte
	Attributes uint64
	MRConfigID [48]byte
	RTMR       [4][48]byte
}

// Debug reports whether the host may look into the TD.
func (r *Report) Debug() bool { return r.Attributes&attributeDebug != 0 }

// ParseReport reads a TDREPORT.
func ParseReport(b []byte) (*Report, error) {
	if len(b) != ReportSize {
		return nil, fmt.Errorf("reading TDREPORT: %d bytes, want %d", len(b), ReportSize)
	}
	if b[atType] != typeTDX {
		return nil, errors.New("reading TDREPORT: it is of another kind of TEE")
	}
	r := &Report{Raw: b, Attributes: binary.LittleEndian.Uint64(b[atAttributes:])}
	copy(r.ReportData[:], b[atReportData:])
	copy(r.MRConfigID[:], b[atMRConfigID:])
	for i := range r.RTMR {
		copy(r.RTMR[i][:], b[atRTMR+48*i:])
	}
	return r, nil
}
