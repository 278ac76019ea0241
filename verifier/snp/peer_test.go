package snp_test

import (
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	peer "github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"cocoon/verifier/snp/report"
)

// peerVerify is go-sev-guest's verification of a raw report with its
// certificate: from memory, with roots that are given to it or, where they are
// nil, its own.
func peerVerify(t testing.TB, raw, cert []byte, now time.Time, roots map[string][]*trust.AMDRootCerts) func() error {
	t.Helper()
	p, err := report.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return func() error {
		r, err := abi.ReportToProto(raw)
		if err != nil {
			return err
		}
		chain := &spb.CertificateChain{VcekCert: cert}
		if p.Signer == report.VLEK {
			chain = &spb.CertificateChain{VlekCert: cert}
		}
		return peer.SnpAttestation(&spb.Attestation{Report: r, CertificateChain: chain},
			&peer.Options{DisableCertFetching: true, Now: now, TrustedRoots: roots})
	}
}
