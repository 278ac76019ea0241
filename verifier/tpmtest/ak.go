package tpmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"

	"github.com/google/go-tpm/tpm2"

	"cocoon/measurements/eventlog"
	"cocoon/verifier/tpm"
)

// Schemes that NewAK makes keys for.
const (
	ECDSA256  = "ecdsa-sha256"
	ECDSA384  = "ecdsa-sha384"
	RSASSA256 = "rsassa-sha256"
	RSASSA384 = "rsassa-sha384"
	RSAPSS256 = "rsapss-sha256"
)

// AK is an attestation key of one scheme, in the open.
type AK struct {
	Key    crypto.Signer
	Public []byte // TPMT_PUBLIC
	alg    tpm2.TPMAlgID
	hash   tpm2.TPMAlgID
}

// NewAK makes a key for one of the schemes.
func NewAK(t T, scheme string) *AK {
	helper(t)
	a := &AK{hash: tpm2.TPMAlgSHA256}
	p := tpm.AKTemplate()
	var curve elliptic.Curve
	switch scheme {
	case ECDSA256:
		a.alg, curve = tpm2.TPMAlgECDSA, elliptic.P256()
	case ECDSA384:
		a.alg, a.hash, curve = tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA384, elliptic.P384()
	case RSASSA256:
		a.alg = tpm2.TPMAlgRSASSA
	case RSASSA384:
		a.alg, a.hash = tpm2.TPMAlgRSASSA, tpm2.TPMAlgSHA384
	case RSAPSS256:
		a.alg = tpm2.TPMAlgRSAPSS
	default:
		t.Fatal("unknown scheme " + scheme)
	}
	if curve != nil {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		check(t, err)
		a.Key = k
		n := (curve.Params().BitSize + 7) / 8
		id := tpm2.TPMECCNistP256
		if curve == elliptic.P384() {
			id = tpm2.TPMECCNistP384
		}
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: id, Scheme: tpm2.TPMTECCScheme{
			Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: a.hash})}})
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: k.X.FillBytes(make([]byte, n))}, Y: tpm2.TPM2BECCParameter{Buffer: k.Y.FillBytes(make([]byte, n))}})
	} else {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		check(t, err)
		a.Key = k
		details := tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: a.hash})
		if a.alg == tpm2.TPMAlgRSAPSS {
			details = tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: a.hash})
		}
		p.Type = tpm2.TPMAlgRSA
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048, Scheme: tpm2.TPMTRSAScheme{Scheme: a.alg, Details: details}})
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
	}
	a.Public = tpm2.Marshal(p)
	return a
}

func (a *AK) sum(b []byte) ([]byte, crypto.Hash) {
	h := crypto.SHA256
	if a.hash == tpm2.TPMAlgSHA384 {
		h = crypto.SHA384
	}
	w := h.New()
	w.Write(b)
	return w.Sum(nil), h
}

// Quote signs the values of the selected registers over the given
// qualifying data.
func (a *AK) Quote(t T, extra []byte, sel tpm2.TPMLPCRSelection, values tpm.Banks) (attest, signature []byte) {
	helper(t)
	var all []byte
	for _, s := range sel.PCRSelections {
		for i, b := range s.PCRSelect {
			for j := range 8 {
				if b&(1<<j) != 0 {
					all = append(all, values[eventlog.Algorithm(s.Hash)][8*i+j]...)
				}
			}
		}
	}
	digest, _ := a.sum(all)
	attest = tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote,
		QualifiedSigner: tpm2.TPM2BName{Buffer: make([]byte, 34)}, ExtraData: tpm2.TPM2BData{Buffer: extra},
		ClockInfo: tpm2.TPMSClockInfo{Clock: 12345, ResetCount: 1, Safe: true}, FirmwareVersion: 1,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRSelect: sel, PCRDigest: tpm2.TPM2BDigest{Buffer: digest}}),
	})
	return attest, a.Sign(t, attest)
}

// Sign signs bytes in the key's scheme.
func (a *AK) Sign(t T, message []byte) []byte {
	helper(t)
	sum, h := a.sum(message)
	out := tpm2.TPMTSignature{SigAlg: a.alg}
	switch k := a.Key.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, sum)
		check(t, err)
		out.Signature = tpm2.NewTPMUSignature(a.alg, &tpm2.TPMSSignatureECC{Hash: a.hash,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()}})
	case *rsa.PrivateKey:
		var opts crypto.SignerOpts = h
		if a.alg == tpm2.TPMAlgRSAPSS {
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: h}
		}
		b, err := k.Sign(rand.Reader, sum, opts)
		check(t, err)
		out.Signature = tpm2.NewTPMUSignature(a.alg, &tpm2.TPMSSignatureRSA{Hash: a.hash, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: b}})
	}
	return tpm2.Marshal(out)
}

// Select returns a selection of registers in the given banks.
func Select(pcrs []uint, banks ...eventlog.Algorithm) tpm2.TPMLPCRSelection {
	var s tpm2.TPMLPCRSelection
	for _, b := range banks {
		s.PCRSelections = append(s.PCRSelections, tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgID(b), PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)})
	}
	return s
}
