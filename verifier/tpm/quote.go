package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Quote is a TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE (TPM 2.0 Library, Part 2,
// section 10.12).
type Quote struct {
	ExtraData       []byte // qualifying data that the caller of TPM2_Quote gave
	PCRDigest       []byte // SHA-256 of the selected registers, in order
	Selection       tpm2.TPMLPCRSelection
	FirmwareVersion uint64 // of the TPM, vendor-specific
	Clock           uint64 // milliseconds
	ResetCount      uint32
	RestartCount    uint32
}

// ErrNotQuote is returned for attestations of another type than quote.
var ErrNotQuote = errors.New("attestation is not a quote")

// ParseQuote reads the TPMS_ATTEST of a quote. A structure with another magic
// number than TPM_GENERATED_VALUE, which a restricted key cannot have signed,
// has a wrong form.
func ParseQuote(b []byte) (*Quote, error) {
	a, err := unmarshal[tpm2.TPMSAttest]("TPMS_ATTEST", b, maxAttest)
	if err != nil {
		return nil, err
	}
	if err := a.Magic.Check(); err != nil {
		return nil, fmt.Errorf("reading TPMS_ATTEST: %w: %w", ErrFormat, err)
	}
	if a.Type != tpm2.TPMSTAttestQuote {
		return nil, fmt.Errorf("reading TPMS_ATTEST of type %#04x: %w", uint16(a.Type), ErrNotQuote)
	}
	q, err := a.Attested.Quote()
	if err != nil {
		return nil, fmt.Errorf("reading TPMS_ATTEST: %w: %w", ErrFormat, err)
	}
	return &Quote{
		ExtraData: a.ExtraData.Buffer, PCRDigest: q.PCRDigest.Buffer, Selection: q.PCRSelect,
		FirmwareVersion: a.FirmwareVersion, Clock: a.ClockInfo.Clock,
		ResetCount: a.ClockInfo.ResetCount, RestartCount: a.ClockInfo.RestartCount,
	}, nil
}

// ErrSignature is returned for signatures that do not verify.
var ErrSignature = errors.New("signature does not verify")

// verifySignature checks a TPMT_SIGNATURE over a message: ECDSA or RSASSA
// with SHA-256, by the sort of key that is given.
func verifySignature(key crypto.PublicKey, message, signature []byte) error {
	s, err := unmarshal[tpm2.TPMTSignature]("TPMT_SIGNATURE", signature, maxSignature)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(message)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		e, err := s.Signature.ECDSA()
		if s.SigAlg != tpm2.TPMAlgECDSA || err != nil || e.Hash != tpm2.TPMAlgSHA256 {
			return fmt.Errorf("verifying signature of scheme %#04x: %w: want ECDSA with SHA-256", uint16(s.SigAlg), ErrSignature)
		}
		if !ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer)) {
			return fmt.Errorf("verifying ECDSA signature: %w", ErrSignature)
		}
		return nil
	case *rsa.PublicKey:
		r, err := s.Signature.RSASSA()
		if s.SigAlg != tpm2.TPMAlgRSASSA || err != nil || r.Hash != tpm2.TPMAlgSHA256 {
			return fmt.Errorf("verifying signature of scheme %#04x: %w: want RSASSA with SHA-256", uint16(s.SigAlg), ErrSignature)
		}
		if err := rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], r.Sig.Buffer); err != nil {
			return fmt.Errorf("verifying RSASSA signature: %w: %w", ErrSignature, err)
		}
		return nil
	}
	return fmt.Errorf("verifying signature: %w: key of type %T", ErrSignature, key)
}

// exactSelection reports whether a quote selects PCRs and nothing else, in
// the one encoding that Selection has.
func exactSelection(s tpm2.TPMLPCRSelection) bool {
	return string(tpm2.Marshal(s)) == string(tpm2.Marshal(Selection()))
}

func isNotQuote(err error) bool { return errors.Is(err, ErrNotQuote) }

// selectionText writes a selection as "sha256:0,1,2"; what is not PCRs in
// the SHA-256 bank appears by its algorithm's number.
func selectionText(s tpm2.TPMLPCRSelection) string {
	if len(s.PCRSelections) == 0 {
		return "none"
	}
	var out []string
	for _, sel := range s.PCRSelections {
		bank := fmt.Sprintf("%#04x", uint16(sel.Hash))
		if sel.Hash == tpm2.TPMAlgSHA256 {
			bank = "sha256"
		}
		var ns []string
		for i, b := range sel.PCRSelect {
			for j := range 8 {
				if b&(1<<j) != 0 {
					ns = append(ns, strconv.Itoa(8*i+j))
				}
			}
		}
		out = append(out, bank+":"+strings.Join(ns, ","))
	}
	return strings.Join(out, "+")
}
