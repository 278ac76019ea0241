package ratls

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
)

// ServerConfig returns the enclave's TLS settings: TLS 1.3 only, no session
// tickets, so that every connection shows the current certificate.
func ServerConfig(current func() (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current() },
	}
}

// Check decides whether evidence is acceptable for a key: doc is the evidence
// document from the certificate, spki the SHA-256 of the certificate's key. It
// must refuse evidence whose claims name another key.
type Check func(spki digest.SHA256, doc []byte) error

// ClientConfig returns TLS settings for a client of the enclave: TLS 1.3
// only, and the handshake fails unless the certificate is self-signed, in its
// validity, carries evidence, and check accepts that evidence. A nil clock
// means time.Now.
func ClientConfig(check Check, clock func() time.Time) *tls.Config {
	if clock == nil {
		clock = time.Now
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"},
		// No CA vouches for an enclave's key: VerifyConnection replaces the
		// X.509 chain by the evidence (DESIGN section 4). It runs on every
		// handshake; there is no resumption without a session cache.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyPeer(cs, check, clock())
		},
	}
}

func verifyPeer(cs tls.ConnectionState, check Check, now time.Time) error {
	if cs.Version != tls.VersionTLS13 || len(cs.PeerCertificates) != 1 {
		return fault.New(fault.ExitRefused, CodeCertificate, "the peer is no attested worker",
			"verifying peer: want TLS 1.3 and one certificate, have version %x and %d", cs.Version, len(cs.PeerCertificates))
	}
	cert := cs.PeerCertificates[0]
	if err := checkLeaf(cert, now); err != nil {
		return err
	}
	doc, err := EvidenceFrom(cert)
	if err != nil {
		return err
	}
	spki := digest.Sum256(cert.RawSubjectPublicKeyInfo)
	return check(spki, doc)
}

func checkLeaf(cert *x509.Certificate, now time.Time) error {
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return fault.New(fault.ExitRefused, CodeCertificate, "the peer's certificate is broken; use another worker",
			"verifying peer: certificate is not signed by its own key: %w", err)
	}
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		f := fault.Mismatch(fault.ExitRefused, CodeExpired, "the time and the certificate's validity",
			cert.NotBefore.UTC().Format(time.RFC3339)+" to "+cert.NotAfter.UTC().Format(time.RFC3339),
			now.UTC().Format(time.RFC3339), "check this machine's clock, else the worker has stopped renewing its evidence")
		return f
	}
	return nil
}
