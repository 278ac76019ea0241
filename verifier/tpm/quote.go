package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"cocoon/measurements/eventlog"
)

// Quote is a TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE (TPM 2.0 Library, Part 2,
// section 10.12).
type Quote struct {
	ExtraData       []byte // qualifying data that the caller of TPM2_Quote gave
	PCRDigest       []byte // hash of the selected registers, in order, with the signature's hash
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

// hashes are the algorithms that quotes are signed with.
var hashes = map[tpm2.TPMAlgID]crypto.Hash{tpm2.TPMAlgSHA256: crypto.SHA256, tpm2.TPMAlgSHA384: crypto.SHA384}

// scheme is a signing scheme: an algorithm and its hash.
type scheme struct {
	alg  tpm2.TPMAlgID // ECDSA, RSASSA or RSAPSS
	hash tpm2.TPMAlgID
}

// String writes the scheme as people know it.
func (s scheme) String() string {
	names := map[tpm2.TPMAlgID]string{tpm2.TPMAlgECDSA: "ECDSA", tpm2.TPMAlgRSASSA: "RSASSA", tpm2.TPMAlgRSAPSS: "RSAPSS",
		tpm2.TPMAlgSHA256: "SHA-256", tpm2.TPMAlgSHA384: "SHA-384"}
	alg, hash := names[s.alg], names[s.hash]
	if alg == "" {
		alg = fmt.Sprintf("%#04x", uint16(s.alg))
	}
	if hash == "" {
		hash = fmt.Sprintf("%#04x", uint16(s.hash))
	}
	return alg + " with " + hash
}

// verifySignature checks a TPMT_SIGNATURE over a message: ECDSA, RSASSA or
// RSAPSS with SHA-256 or SHA-384, by the sort of key that is given. It returns
// the scheme; its hash is also that of the PCR digest (TPM 2.0 Library, Part 3,
// section 18.4).
func verifySignature(key crypto.PublicKey, message, signature []byte) (scheme, error) {
	t, err := unmarshal[tpm2.TPMTSignature]("TPMT_SIGNATURE", signature, maxSignature)
	if err != nil {
		return scheme{}, err
	}
	s := scheme{alg: t.SigAlg}
	var ecc *tpm2.TPMSSignatureECC
	var rsaSig *tpm2.TPMSSignatureRSA
	switch t.SigAlg {
	case tpm2.TPMAlgECDSA:
		ecc, err = t.Signature.ECDSA()
	case tpm2.TPMAlgRSASSA:
		rsaSig, err = t.Signature.RSASSA()
	case tpm2.TPMAlgRSAPSS:
		rsaSig, err = t.Signature.RSAPSS()
	default:
		return s, fmt.Errorf("verifying signature of scheme %#04x: %w: want ECDSA, RSASSA or RSAPSS", uint16(t.SigAlg), ErrSignature)
	}
	if err != nil {
		return s, fmt.Errorf("reading signature: %w: %w", ErrFormat, err)
	}
	if ecc != nil {
		s.hash = ecc.Hash
	} else {
		s.hash = rsaSig.Hash
	}
	h, ok := hashes[s.hash]
	if !ok {
		return s, fmt.Errorf("verifying signature: %w: hash %#04x, want SHA-256 or SHA-384", ErrSignature, uint16(s.hash))
	}
	w := h.New()
	w.Write(message)
	sum := w.Sum(nil)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if ecc == nil || !ecdsa.Verify(k, sum, new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer)) {
			return s, fmt.Errorf("verifying %s signature by an ECDSA key: %w", s, ErrSignature)
		}
		return s, nil
	case *rsa.PublicKey:
		switch {
		case rsaSig == nil:
			err = ErrSignature
		case s.alg == tpm2.TPMAlgRSASSA:
			err = rsa.VerifyPKCS1v15(k, h, sum, rsaSig.Sig.Buffer)
		default:
			// TPMs make the salt as long as fits, or as long as the hash (TPM 2.0
			// Library, Part 1, section B.7).
			err = rsa.VerifyPSS(k, h, sum, rsaSig.Sig.Buffer, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
		}
		if err != nil {
			return s, fmt.Errorf("verifying %s signature by an RSA key: %w: %w", s, ErrSignature, err)
		}
		return s, nil
	}
	return s, fmt.Errorf("verifying signature: %w: key of type %T", ErrSignature, key)
}

// RSASSASignature returns the TPMT_SIGNATURE for the bare bytes of an RSASSA
// signature with SHA-256, which is how some evidence formats carry it.
func RSASSASignature(raw []byte) []byte {
	return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: raw}})})
}

// exactSelection reports whether a quote selects PCRs and nothing else, in
// the one encoding that Selection has.
func exactSelection(s tpm2.TPMLPCRSelection) bool {
	return string(tpm2.Marshal(s)) == string(tpm2.Marshal(Selection()))
}

func isNotQuote(err error) bool { return errors.Is(err, ErrNotQuote) }

// selectionText writes a selection as "sha256:0,1,2"; a bank that is not
// known appears by its algorithm's number.
func selectionText(s tpm2.TPMLPCRSelection) string {
	if len(s.PCRSelections) == 0 {
		return "none"
	}
	var out []string
	for _, sel := range s.PCRSelections {
		bank, ok := bankNames[eventlog.Algorithm(sel.Hash)]
		if !ok {
			bank = fmt.Sprintf("%#04x", uint16(sel.Hash))
		}
		var ns []string
		for _, n := range selected(sel) {
			ns = append(ns, strconv.Itoa(n))
		}
		out = append(out, bank+":"+strings.Join(ns, ","))
	}
	return strings.Join(out, "+")
}
