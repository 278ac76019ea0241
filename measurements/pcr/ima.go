package pcr

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
)

// IMA is the register of the kernel's integrity measurement (Linux
// CONFIG_IMA_MEASURE_PCR_IDX).
const IMA = 10

// ErrIMA is returned where PCR 10 cannot be computed.
var ErrIMA = errors.New("PCR 10 follows from PCR 0 to 9, of which one is not known")

// Aggregate returns the one event that a kernel with IMA and without an IMA
// policy writes: the "boot_aggregate" of the ima-sig template, which Debian's
// kernels have as their default. It is a hash over PCR 0 to 9, so it depends on
// the host as PCR 1 does, and proves nothing that they do not.
//
// Definition: Linux Documentation/security/IMA-templates.rst and
// security/integrity/ima/ima_crypto.c (ima_calc_boot_aggregate_tfm: SHA-256
// over registers 0 to 9 of the SHA-256 bank). Template data is, for each field,
// its length as u32 and the field: d-ng ("sha256:", NUL, digest), n-ng (the
// name, NUL) and sig (empty).
func Aggregate(v Values) (boot.Event, error) {
	h := sha256.New()
	for n := range IMA {
		r, ok := v[n]
		if !ok {
			return boot.Event{}, ErrIMA
		}
		h.Write(r[:])
	}
	field := func(b, f []byte) []byte {
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	b := field(nil, append([]byte("sha256:\x00"), h.Sum(nil)...))
	b = field(b, []byte("boot_aggregate\x00"))
	e := boot.New(IMA, eventlog.EventTag, "IMA boot_aggregate", "PCR 0 to 9", boot.Of(field(b, nil)))
	e.RTMR = boot.NoRegister // IMA extends a TPM only
	return e, nil
}

// PredictIMA returns PCR 10.
func PredictIMA(v Values) (digest.SHA256, error) {
	e, err := Aggregate(v)
	if err != nil {
		return digest.SHA256{}, err
	}
	return Extend(e.Digests.SHA256), nil
}
