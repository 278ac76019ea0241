// Package spdm reads what an NVIDIA GPU or NVSwitch gives as its attestation
// report: an SPDM 1.1 GET_MEASUREMENTS request, followed by the MEASUREMENTS
// response to it (DMTF DSP0274, section 10.11), as NVML and NSCQ return them.
// In come untrusted bytes, out comes a Report whose every byte has a place;
// signatures are not verified here.
//
// Numbers are little-endian. The request is 37 bytes: version, code, two
// parameters, the requester's nonce (32 bytes), the certificate slot. The
// response is version, code, two parameters, the number of blocks (1 byte),
// the length of the measurement record (3 bytes), the record, the responder's
// own nonce (32 bytes), the length of the opaque data (2 bytes), the opaque
// data, and an ECDSA P-384 signature as r ‖ s (96 bytes, big-endian).
package spdm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes in bytes.
const (
	RequestSize   = 37
	NonceSize     = 32
	SignatureSize = 96
	ValueSize     = 48   // of a measurement: SHA-384
	MaxReport     = 8192 // NVML_CC_GPU_ATTESTATION_REPORT_SIZE
)

// MaxIndex is the largest index of a measurement block; 0 and 255 are not
// indices, and 0xFD to 0xFE are reserved (DSP0274, table "Measurement block
// format").
const MaxIndex = 0xFC

const (
	version10          = 0x11 // SPDM 1.1
	codeGet            = 0xE0 // GET_MEASUREMENTS
	codeMeasurements   = 0x60 // MEASUREMENTS
	wantSignature      = 0x01 // request attribute: a signature
	allMeasurements    = 0xFF // operation: all blocks
	specDMTF           = 0x01
	responseHeaderSize = 8
	blockHeaderSize    = 4 // index, specification, size
	valueHeaderSize    = 3 // type, size
)

// ErrMalformed is wrapped by every error of this package.
var ErrMalformed = errors.New("malformed attestation report")

// Report is a parsed report. Its slices point into the bytes that it was
// parsed from.
type Report struct {
	RequestNonce  [NonceSize]byte // the caller's, to which the report answers
	ResponseNonce [NonceSize]byte // the device's own; nothing is compared with it
	Measurements  []Measurement   // by ascending position in the record, indices distinct
	Opaque        Opaque
	Signed        []byte // what the signature is over: all of the report before it
	Signature     []byte // r ‖ s, 48 bytes each, big-endian
}

// Measurement is one block of the measurement record.
type Measurement struct {
	Index int   // 1-based; the reference measurement of this block has Index-1
	Type  uint8 // DMTF measurement value type; 1: mutable firmware
	Value [ValueSize]byte
}

// Value returns the measurement with a 1-based index.
func (r *Report) Value(index int) (Measurement, bool) {
	for _, m := range r.Measurements {
		if m.Index == index {
			return m, true
		}
	}
	return Measurement{}, false
}

// Parse reads a report. Every length must be exact: nothing may be left over
// anywhere.
func Parse(b []byte) (*Report, error) {
	if len(b) > MaxReport {
		return nil, bad("%d bytes, at most %d", len(b), MaxReport)
	}
	if len(b) < RequestSize+responseHeaderSize+NonceSize+2+SignatureSize {
		return nil, bad("%d bytes are too few", len(b))
	}
	r := &Report{}
	if err := r.request(b[:RequestSize]); err != nil {
		return nil, err
	}
	if err := r.response(b[RequestSize:]); err != nil {
		return nil, err
	}
	r.Signed, r.Signature = b[:len(b)-SignatureSize], b[len(b)-SignatureSize:]
	return r, nil
}

func (r *Report) request(q []byte) error {
	if q[0] != version10 || q[1] != codeGet || q[2] != wantSignature || q[3] != allMeasurements || q[36] != 0 {
		return bad("the request is not GET_MEASUREMENTS 1.1 for all measurements, signed, of slot 0")
	}
	copy(r.RequestNonce[:], q[4:36])
	return nil
}

// response reads the response; its length is at least that of one with an
// empty record and no opaque data.
func (r *Report) response(p []byte) error {
	if p[0] != version10 || p[1] != codeMeasurements || p[2] != 0 || p[3] != 0 {
		return bad("the response is not MEASUREMENTS 1.1 of slot 0")
	}
	blocks, size := int(p[4]), int(p[5])|int(p[6])<<8|int(p[7])<<16
	p = p[responseHeaderSize:]
	if size > len(p)-NonceSize-2-SignatureSize {
		return bad("a measurement record of %d bytes does not fit", size)
	}
	if err := r.record(p[:size], blocks); err != nil {
		return err
	}
	p = p[size:]
	copy(r.ResponseNonce[:], p)
	p = p[NonceSize:]
	length := int(binary.LittleEndian.Uint16(p))
	p = p[2:]
	if length != len(p)-SignatureSize {
		return bad("%d bytes of opaque data, the report has room for %d", length, len(p)-SignatureSize)
	}
	var err error
	r.Opaque, err = ParseOpaque(p[:length])
	return err
}

func (r *Report) record(p []byte, blocks int) error {
	const blockSize = blockHeaderSize + valueHeaderSize + ValueSize
	if blocks == 0 || len(p) != blocks*blockSize {
		return bad("a measurement record of %d bytes with %d blocks of %d", len(p), blocks, blockSize)
	}
	var seen [256]bool
	r.Measurements = make([]Measurement, blocks)
	for i := range r.Measurements {
		b := p[i*blockSize:][:blockSize]
		index := int(b[0])
		switch {
		case index == 0 || index > MaxIndex || seen[index]:
			return bad("measurement index %d is out of range or there twice", index)
		case b[1] != specDMTF:
			return bad("measurement %d is of specification %d, not DMTF", index, b[1])
		case binary.LittleEndian.Uint16(b[2:]) != valueHeaderSize+ValueSize || binary.LittleEndian.Uint16(b[5:]) != ValueSize:
			return bad("measurement %d is not %d bytes", index, ValueSize)
		}
		seen[index] = true
		r.Measurements[i] = Measurement{Index: index, Type: b[4], Value: [ValueSize]byte(b[7:])}
	}
	return nil
}

func bad(format string, args ...any) error {
	return fmt.Errorf("parsing attestation report: "+format+": %w", append(args, ErrMalformed)...)
}
