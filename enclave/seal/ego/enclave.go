package main

import (
	"encoding/binary"
	"fmt"

	"github.com/edgelesssys/ego/enclave"
)

// sgxEnclave is the SGX enclave that this program runs in.
type sgxEnclave struct{}

// header is what OpenEnclave puts before a quote: version, type, and the
// quote's length (oe_report_header_t).
const header = 4 + 4 + 8

// Quote returns the SGX quote without OpenEnclave's header.
func (sgxEnclave) Quote(data [64]byte) ([]byte, error) {
	r, err := enclave.GetRemoteReport(data[:])
	if err != nil {
		return nil, fmt.Errorf("asking for a quote: %w", err)
	}
	if len(r) < header || binary.LittleEndian.Uint64(r[8:]) != uint64(len(r)-header) {
		return nil, fmt.Errorf("asking for a quote: report of %d bytes has another form", len(r))
	}
	return r[header:], nil
}

// NewSealKey returns a key of signer and product.
func (sgxEnclave) NewSealKey() (key, info []byte, err error) {
	return enclave.GetRandomProductSealKey()
}

// SealKey returns the key of a request that package sgx has checked.
func (sgxEnclave) SealKey(info []byte) ([]byte, error) { return enclave.GetSealKey(info) }
