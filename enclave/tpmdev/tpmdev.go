// Package tpmdev drives the guest's TPM 2.0: PCR extension, the endorsement
// key and its certificate, the attestation key, credential activation and
// quotes. Definitions: TCG TPM 2.0 Library Part 3 (commands), TCG EK
// Credential Profile 2.5 (templates and NV indices).
package tpmdev

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/tpm"
)

// Path is the device with the kernel's resource manager, which swaps out
// objects and sessions of other users.
const Path = "/dev/tpmrm0"

// EventLogPath is the firmware's event log, in the crypto-agile form (TCG PC
// Client Platform Firmware Profile, section 10).
const EventLogPath = "sys/kernel/security/tpm0/binary_bios_measurements"

// MaxEventLog bounds the log that is put into evidence, in bytes.
const MaxEventLog = 1 << 20

// RuntimePCR is the register that the supervisor extends (DESIGN section 4).
const RuntimePCR = 15

const maxEKCert = 8 << 10

// Codes of faults.
const (
	CodeAbsent   = "tpm.absent"
	CodeNoEKCert = "tpm.ek_certificate_absent"
	CodePCRUsed  = "measure.pcr_not_fresh"
	CodePCRValue = "measure.pcr_differs"
)

// TPM is an open TPM.
type TPM struct {
	t transport.TPMCloser
}

// Open opens the TPM device.
func Open(path string) (*TPM, error) {
	t, err := openDevice(path)
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, CodeAbsent,
			"give the machine a TPM 2.0 (hostd does; by hand: swtpm and -device tpm-crb)", "opening TPM: %w", err)
	}
	return New(t), nil
}

// New returns a TPM on an open transport.
func New(t transport.TPMCloser) *TPM { return &TPM{t: t} }

// Close closes the device.
func (t *TPM) Close() error { return t.t.Close() }

// ReadPCR returns a register of the SHA-256 bank.
func (t *TPM) ReadPCR(pcr uint) (digest.SHA256, error) {
	rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcr),
	}}}}.Execute(t.t)
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("reading PCR %d: %w", pcr, err)
	}
	if len(rsp.PCRValues.Digests) != 1 || len(rsp.PCRValues.Digests[0].Buffer) != sha256.Size {
		return digest.SHA256{}, fmt.Errorf("reading PCR %d: the TPM has no SHA-256 bank", pcr)
	}
	return digest.SHA256(rsp.PCRValues.Digests[0].Buffer), nil
}

// Measure makes the first extensions of RuntimePCR, as Extend does. The
// register must be untouched: a value in it means that something ran before
// the supervisor did.
func (t *TPM) Measure(events [][]byte) (digest.SHA256, error) {
	value, err := t.ReadPCR(RuntimePCR)
	if err != nil {
		return digest.SHA256{}, err
	}
	if !value.IsZero() {
		return digest.SHA256{}, fault.Mismatch(fault.ExitRefused, CodePCRUsed, "PCR 15 before the first measurement",
			digest.SHA256{}.String(), value.String(), "restart the machine with a fresh TPM state; a reset alone must clear the register")
	}
	return t.Extend(value, events)
}

// Extend extends RuntimePCR, which must hold value, with the SHA-256 of each
// event, in order, and reads back what must have become of it.
func (t *TPM) Extend(value digest.SHA256, events [][]byte) (digest.SHA256, error) {
	for _, e := range events {
		sum := digest.Sum256(e)
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(RuntimePCR), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{
				HashAlg: tpm2.TPMAlgSHA256, Digest: sum[:],
			}}},
		}.Execute(t.t)
		if err != nil {
			return digest.SHA256{}, fmt.Errorf("extending PCR %d: %w", RuntimePCR, err)
		}
		value = sha256.Sum256(append(value[:], sum[:]...))
	}
	got, err := t.ReadPCR(RuntimePCR)
	if err != nil {
		return digest.SHA256{}, err
	}
	if got != value {
		return digest.SHA256{}, fault.Mismatch(fault.ExitRefused, CodePCRValue, "PCR 15 after measuring",
			value.String(), got.String(), "the TPM is broken, or shared with something else")
	}
	return got, nil
}

// key is a loaded primary key.
type key struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public []byte // TPMT_PUBLIC
}

// Keys are the TPM's endorsement key and attestation key, loaded.
type Keys struct {
	tpm    *TPM
	ek, ak key
	ekCert []byte // DER
}

// LoadKeys reads the EK certificate and loads the EK that it is for, and an
// AK. Close unloads them.
func (t *TPM) LoadKeys() (*Keys, error) {
	cert, template, err := t.ekCertificate()
	if err != nil {
		return nil, err
	}
	ek, err := t.primary(tpm2.TPMRHEndorsement, template)
	if err != nil {
		return nil, fmt.Errorf("loading endorsement key: %w", err)
	}
	ak, err := t.primary(tpm2.TPMRHOwner, tpm.AKTemplate())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("loading attestation key: %w", err), t.flush(ek.handle))
	}
	return &Keys{tpm: t, ek: ek, ak: ak, ekCert: cert}, nil
}

// Close unloads the keys.
func (k *Keys) Close() error { return errors.Join(k.tpm.flush(k.ak.handle), k.tpm.flush(k.ek.handle)) }

// EKCertificate returns the endorsement key's certificate, DER.
func (k *Keys) EKCertificate() []byte { return k.ekCert }

// EKPublic returns the endorsement key's TPMT_PUBLIC.
func (k *Keys) EKPublic() []byte { return k.ek.public }

// AKPublic returns the attestation key's TPMT_PUBLIC.
func (k *Keys) AKPublic() []byte { return k.ak.public }

func (t *TPM) ekCertificate() ([]byte, tpm2.TPMTPublic, error) {
	var errs []error
	for _, c := range []struct {
		index    tpm2.TPMHandle
		template tpm2.TPMTPublic
	}{{tpm.NVIndexRSA2048, tpm2.RSAEKTemplate}, {tpm.NVIndexP256, tpm2.ECCEKTemplate}} {
		der, err := t.readNV(c.index)
		if err == nil {
			return der, c.template, nil
		}
		errs = append(errs, err)
	}
	return nil, tpm2.TPMTPublic{}, fault.New(fault.ExitRefused, CodeNoEKCert,
		"provision the TPM with an endorsement key certificate (swtpm_setup --create-ek-cert)",
		"reading endorsement key certificate: %w", errors.Join(errs...))
}

// readNV returns the contents of an NV index that anyone may read.
func (t *TPM) readNV(index tpm2.TPMHandle) ([]byte, error) {
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.t)
	if err != nil {
		return nil, fmt.Errorf("reading NV index %#x: %w", uint32(index), err)
	}
	info, err := pub.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("reading NV index %#x: %w", uint32(index), err)
	}
	if info.DataSize > maxEKCert {
		return nil, fmt.Errorf("reading NV index %#x: %d bytes, at most %d", uint32(index), info.DataSize, maxEKCert)
	}
	const block = 512 // every TPM reads as much at once
	var out []byte
	for len(out) < int(info.DataSize) {
		rsp, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: pub.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Size:       min(block, info.DataSize-uint16(len(out))),
			Offset:     uint16(len(out)),
		}.Execute(t.t)
		if err != nil {
			return nil, fmt.Errorf("reading NV index %#x: %w", uint32(index), err)
		}
		if len(rsp.Data.Buffer) == 0 {
			return nil, fmt.Errorf("reading NV index %#x: the TPM returned nothing", uint32(index))
		}
		out = append(out, rsp.Data.Buffer...)
	}
	return out, nil
}

func (t *TPM) primary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (key, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(t.t)
	if err != nil {
		return key{}, fmt.Errorf("creating primary key: %w", err)
	}
	pub, err := rsp.OutPublic.Contents()
	if err != nil {
		return key{}, errors.Join(fmt.Errorf("creating primary key: %w", err), t.flush(rsp.ObjectHandle))
	}
	return key{handle: rsp.ObjectHandle, name: rsp.Name, public: tpm2.Marshal(*pub)}, nil
}

func (t *TPM) flush(h tpm2.TPMHandle) error {
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(t.t); err != nil {
		return fmt.Errorf("unloading key: %w", err)
	}
	return nil
}

// ReadEventLog returns the firmware's event log. root is os.DirFS("/").
func ReadEventLog(root fs.FS, path string) ([]byte, error) {
	b, err := fs.ReadFile(root, path)
	if err != nil {
		remedy := "boot with OVMF and a TPM, so that the firmware measures"
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.New(fault.ExitNotReady, "tpm.event_log_absent", remedy, "reading event log: %w", err)
		}
		return nil, fmt.Errorf("reading event log: %w", err)
	}
	if len(b) == 0 || len(b) > MaxEventLog {
		return nil, fmt.Errorf("reading event log: %d bytes, want 1 to %d", len(b), MaxEventLog)
	}
	return b, nil
}
