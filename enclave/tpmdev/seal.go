package tpmdev

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cocoon/enclave/seal"
)

// sealPCRs are the registers that a sealed key is bound to: firmware (0),
// option ROMs (2), kernel (4), Secure Boot state (7), command line and initrd
// (9), UKI sections (11), and the supervisor's own events (15) - config, model,
// GPUs and latch, so the config is measured before a key is released. PCR 1 and
// 5 are left out: they change with memory size and boot retries.
var sealPCRs = []uint{0, 2, 4, 7, 9, 11, RuntimePCR}

// Sealer seals keys to this TPM and sealPCRs (TCG TPM 2.0 Library Part 1,
// section on sealed data objects; PolicyPCR in Part 3).
type Sealer struct{ tpm *TPM }

// Sealer returns the TPM's sealer. It is used once the last runtime event is
// measured.
func (t *TPM) Sealer() Sealer { return Sealer{t} }

// Name implements seal.Sealer.
func (Sealer) Name() string { return "tpm2-pcr" }

func sealSelection() tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(sealPCRs...),
	}}}
}

// policy is TPM2_PolicyPCR's digest over the values that the registers have
// now, computed here: a trial session would ask the same TPM.
func (s Sealer) policy() ([]byte, error) {
	h := sha256.New()
	for _, i := range sealPCRs { // ascending, as the TPM takes them
		v, err := s.tpm.ReadPCR(i)
		if err != nil {
			return nil, err
		}
		h.Write(v[:])
	}
	pcrs := h.Sum(nil)
	h = sha256.New()
	h.Write(make([]byte, sha256.Size))
	var cc [4]byte
	binary.BigEndian.PutUint32(cc[:], uint32(tpm2.TPMCCPolicyPCR))
	h.Write(cc[:])
	h.Write(tpm2.Marshal(sealSelection()))
	h.Write(pcrs)
	return h.Sum(nil), nil
}

// srk is the storage primary key, made anew at each use from the TPM's seed.
func (s Sealer) srk() (key, *tpm2.TPMTPublic, error) {
	k, err := s.tpm.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	if err != nil {
		return key{}, nil, fmt.Errorf("loading storage key: %w", err)
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](k.public)
	if err != nil {
		return key{}, nil, errors.Join(fmt.Errorf("loading storage key: %w", err), s.tpm.flush(k.handle))
	}
	return k, pub, nil
}

// Seal implements seal.Sealer. The blob is a TPM2B_PUBLIC, then a
// TPM2B_PRIVATE.
func (s Sealer) Seal(secret []byte) (blob []byte, err error) {
	if len(secret) == 0 || len(secret) > seal.MaxKey {
		return nil, fmt.Errorf("sealing: key of %d bytes, want 1 to %d", len(secret), seal.MaxKey)
	}
	policy, err := s.policy()
	if err != nil {
		return nil, err
	}
	srk, pub, err := s.srk()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.tpm.flush(srk.handle)) }()
	rsp, err := tpm2.Create{
		// The key goes to the TPM encrypted: who listens on the way learns
		// nothing.
		ParentHandle: tpm2.AuthHandle{Handle: srk.handle, Name: srk.name,
			Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(srk.handle, *pub), tpm2.AESEncryption(128, tpm2.EncryptIn))},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			// No UserWithAuth: the policy is the only way.
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true},
			AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		}),
	}.Execute(s.tpm.t)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return append(tpm2.Marshal(rsp.OutPublic), tpm2.Marshal(rsp.OutPrivate)...), nil
}

// splitBlob reads a blob; it comes from a disk that the host may have written.
func splitBlob(blob []byte) (tpm2.TPM2BPublic, tpm2.TPM2BPrivate, error) {
	fail := func(err error) (tpm2.TPM2BPublic, tpm2.TPM2BPrivate, error) {
		return tpm2.TPM2BPublic{}, tpm2.TPM2BPrivate{}, fmt.Errorf("reading sealed key: %w", err)
	}
	if len(blob) < 4 || len(blob) > seal.MaxBlob {
		return fail(fmt.Errorf("%d bytes, at most %d", len(blob), seal.MaxBlob))
	}
	n := 2 + int(binary.BigEndian.Uint16(blob))
	if n+2 > len(blob) || n+2+int(binary.BigEndian.Uint16(blob[n:])) != len(blob) {
		return fail(errors.New("lengths do not add up"))
	}
	pub, err := tpm2.Unmarshal[tpm2.TPM2BPublic](blob[:n])
	if err != nil {
		return fail(err)
	}
	priv, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](blob[n:])
	if err != nil {
		return fail(err)
	}
	return *pub, *priv, nil
}

// Unseal implements seal.Sealer.
func (s Sealer) Unseal(blob []byte) (secret []byte, err error) {
	public, private, err := splitBlob(blob)
	if err != nil {
		return nil, seal.Refused(err)
	}
	srk, pub, err := s.srk()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.tpm.flush(srk.handle)) }()
	obj, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: srk.handle, Name: srk.name, Auth: tpm2.PasswordAuth(nil)},
		InPublic:     public, InPrivate: private,
	}.Execute(s.tpm.t)
	if err != nil {
		return nil, seal.Refused(fmt.Errorf("loading sealed key: %w", err))
	}
	defer func() { err = errors.Join(err, s.tpm.flush(obj.ObjectHandle)) }()
	policy := func(t transport.TPM, handle tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicyPCR{PolicySession: handle, Pcrs: sealSelection()}.Execute(t)
		return err
	}
	rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: obj.ObjectHandle, Name: obj.Name,
		Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, policy, tpm2.Salted(srk.handle, *pub), tpm2.AESEncryption(128, tpm2.EncryptOut)),
	}}.Execute(s.tpm.t)
	if err != nil {
		return nil, seal.Refused(err)
	}
	return rsp.OutData.Buffer, nil
}
