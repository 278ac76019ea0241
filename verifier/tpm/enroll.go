package tpm

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/go-tpm/tpm2"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
)

// Defaults of EnrollerOptions.
const (
	DefaultAKLifetime = 24 * time.Hour   // of an attestation key certificate
	MaxAKLifetime     = 72 * time.Hour   // a longer one would outlive what was checked
	DefaultPendingTTL = 60 * time.Second // to answer an enrolment challenge
	DefaultMaxPending = 1024             // enrolments under way
	clockSkew         = 5 * time.Minute  // how far a certificate reaches back
	credentialBytes   = 32
)

// EnrollerOptions configure an Enroller.
type EnrollerOptions struct {
	EKRoots    []*x509.Certificate // issuers of endorsement key certificates
	CA         *CA                 // issues attestation key certificates
	Lifetime   time.Duration       // of those; 0: DefaultAKLifetime
	PendingTTL time.Duration       // 0: DefaultPendingTTL
	MaxPending int                 // 0: DefaultMaxPending
	Pending    Pending             // nil: in this process's memory
	Clock      func() time.Time    // nil: time.Now
	Rand       io.Reader           // nil: crypto/rand
}

// Enroller is the verifier's privacy CA (TPM 2.0 Library, Part 1, section 24,
// and TCG "TPM 2.0 Keys for Device Identity and Attestation"). It certifies an
// attestation key after the TPM has shown, by TPM2_ActivateCredential, that
// the key lives beside an endorsement key whose certificate an accepted
// authority issued. Whoever trusts a certificate of its CA trusts this check,
// and that the CA's key is kept; nothing else about the TPM's machine follows.
type Enroller struct {
	o      EnrollerOptions
	sealer cipher.AEAD
}

// NewEnroller returns an Enroller.
func NewEnroller(o EnrollerOptions) (*Enroller, error) {
	if o.CA == nil || len(o.EKRoots) == 0 {
		return nil, fmt.Errorf("making enroller: a CA and EK roots are needed")
	}
	if o.Lifetime == 0 {
		o.Lifetime = DefaultAKLifetime
	}
	if o.Lifetime < time.Minute || o.Lifetime > MaxAKLifetime {
		return nil, fmt.Errorf("making enroller: AK certificates of %s, want 1m to %s", o.Lifetime, MaxAKLifetime)
	}
	if o.PendingTTL <= 0 {
		o.PendingTTL = DefaultPendingTTL
	}
	if o.MaxPending <= 0 {
		o.MaxPending = DefaultMaxPending
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Pending == nil {
		o.Pending = &memoryPending{clock: o.Clock, records: map[digest.SHA256]*pendingRecord{}}
	}
	aead, err := sealer(o.CA)
	if err != nil {
		return nil, err
	}
	return &Enroller{o: o, sealer: aead}, nil
}

// Begin checks the endorsement key's certificate and both keys, and returns
// a credential that only the TPM with both can recover.
func (e *Enroller) Begin(ctx context.Context, in *EnrollRequest) (*EnrollResponse, error) {
	now := e.o.Clock()
	ekKey, ekRoot, err := e.checkEndorsement(in, now)
	if err != nil {
		return nil, err
	}
	akPublic, _, err := parsePublic(in.AKPublic)
	if err == nil {
		err = checkAK(akPublic)
	}
	if err != nil {
		return nil, fault.New(fault.ExitRefused, "tpm.ak.attributes",
			"create the key from the verifier's template: a restricted signing key", "checking attestation key: %w", err)
	}
	name, err := tpm2.ObjectName(akPublic)
	if err != nil {
		return nil, fault.New(fault.ExitRefused, "tpm.ak.attributes", "use name algorithm SHA-256", "naming attestation key: %w", err)
	}
	p := &enrolment{Credential: make([]byte, credentialBytes), EKRoot: ekRoot.Raw, Public: in.AKPublic, Expires: now.Add(e.o.PendingTTL).UTC()}
	var session digest.SHA256
	for _, b := range [][]byte{p.Credential, session[:]} {
		if _, err := io.ReadFull(e.o.Rand, b); err != nil {
			return nil, fmt.Errorf("making enrolment secret: %w", err)
		}
	}
	blob, secret, err := tpm2.CreateCredential(e.o.Rand, ekKey, name.Buffer, p.Credential)
	if err != nil {
		return nil, fmt.Errorf("making credential: %w", err)
	}
	record, err := e.seal(session, p)
	if err != nil {
		return nil, err
	}
	switch err := e.o.Pending.Put(ctx, session, digest.Sum256(in.EKChain[0]), record, e.o.PendingTTL, e.o.MaxPending); {
	case errors.Is(err, ErrPendingFull):
		return nil, fault.New(fault.ExitNetwork, "tpm.enroll.busy", "try again in a minute", "starting enrolment: %w: %d at most", err, e.o.MaxPending)
	case err != nil:
		return nil, fault.New(fault.ExitNetwork, "tpm.enroll.store", "try again; the verifier's operator has to look at its shared store", "starting enrolment: %w", err)
	}
	return &EnrollResponse{Session: session, CredentialBlob: blob, Secret: secret, ExpiresAt: p.Expires.Truncate(time.Second)}, nil
}

// checkEndorsement verifies the endorsement key's certificate and returns the
// key to encrypt to, and the authority that it is of.
func (e *Enroller) checkEndorsement(in *EnrollRequest, now time.Time) (tpm2.LabeledEncapsulationKey, *x509.Certificate, error) {
	chain, err := parseChain(in.EKChain)
	if err != nil {
		return nil, nil, fault.New(fault.ExitParse, "tpm.ek.format", "send the EK certificate from the TPM's NV index, DER", "reading EK certificate chain: %w", err)
	}
	_, root, err := verifyChain(chain, e.o.EKRoots, oidEKCertificate, now)
	if err != nil {
		f := fault.New(fault.ExitRefused, "tpm.ek.untrusted_ca", "use a TPM whose EK certificate comes from an authority that the policy names",
			"verifying EK certificate: %w", err)
		f.Expected, f.Actual = names(e.o.EKRoots), issuerName(chain[0])
		if isExpired(err) {
			f.Code, f.Remedy = "tpm.ek.expired", "check the clocks, or renew the EK certificate"
			f.Expected = now.UTC().Format(time.RFC3339)
			f.Actual = chain[0].NotBefore.UTC().Format(time.RFC3339) + " to " + chain[0].NotAfter.UTC().Format(time.RFC3339)
		}
		return nil, nil, f
	}
	public, key, err := parsePublic(in.EKPublic)
	if err != nil {
		return nil, nil, fault.New(fault.ExitParse, "tpm.ek.public", "send the EK's TPMT_PUBLIC", "reading EK: %w", err)
	}
	if !sameKey(chain[0], key) {
		return nil, nil, fault.New(fault.ExitRefused, "tpm.ek.public", "send the public area of the certificate's key", "checking EK: it is not the certificate's key")
	}
	if err := checkEK(public); err != nil {
		return nil, nil, fault.New(fault.ExitRefused, "tpm.ek.public", "create the EK from the TCG's default template", "checking EK: %w", err)
	}
	enc, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		return nil, nil, fault.New(fault.ExitRefused, "tpm.ek.public", "create the EK from the TCG's default template", "importing EK: %w", err)
	}
	return enc, root, nil
}

// Finish takes the recovered credential and issues the certificate. A session
// serves one attempt, whatever its outcome.
func (e *Enroller) Finish(ctx context.Context, in *ActivateRequest) (*ActivateResponse, error) {
	now := e.o.Clock()
	record, err := e.o.Pending.Take(ctx, in.Session)
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "tpm.enroll.store", "start the enrolment again; the verifier's operator has to look at its shared store", "finishing enrolment: %w", err)
	}
	var p *enrolment
	var ekRoot *x509.Certificate
	if record != nil {
		if p, ekRoot, err = e.unseal(in.Session, record); err != nil {
			return nil, fault.New(fault.ExitRefused, "tpm.enroll.session", "start the enrolment again", "finishing enrolment: %w", err)
		}
	}
	if p == nil || !now.Before(p.Expires) {
		return nil, fault.New(fault.ExitRefused, "tpm.enroll.session", "start the enrolment again", "finishing enrolment: session is unknown, used or expired")
	}
	if subtle.ConstantTimeCompare(p.Credential, in.Credential) != 1 {
		return nil, fault.New(fault.ExitRefused, "tpm.enroll.credential", "activate the credential in the TPM that holds both keys", "finishing enrolment: credential is not the one that was made")
	}
	_, key, err := parsePublic(p.Public)
	if err != nil {
		return nil, fmt.Errorf("finishing enrolment: %w", err)
	}
	notAfter := now.Add(e.o.Lifetime)
	if notAfter.After(e.o.CA.Cert.NotAfter) {
		notAfter = e.o.CA.Cert.NotAfter
	}
	if !now.Before(notAfter) {
		return nil, fault.New(fault.ExitInternal, "tpm.enroll.ca_expired", "make a new AK authority for the verifier", "finishing enrolment: the AK authority expired at %s", e.o.CA.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	der, err := e.o.CA.Issue(p.Public, key, ekRoot, now.Add(-clockSkew), notAfter)
	if err != nil {
		return nil, err
	}
	return &ActivateResponse{CertChain: [][]byte{der, e.o.CA.Cert.Raw}}, nil
}

// Pending returns how many enrolments are under way, as far as this process
// knows.
func (e *Enroller) Pending() int { return e.o.Pending.Len() }
