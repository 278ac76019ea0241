package tdx_test

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	peer "github.com/google/go-tdx-guest/verify"

	"cocoon/verifier/collateral"
)

// peerGetter answers go-tdx-guest's requests to Intel's PCS from collateral.
type peerGetter struct {
	chains                 [3]map[string][]string // of TCB info, QE identity and PCK CRL
	info, qe, pckCRL, root []byte
}

func newPeerGetter(t testing.TB, raw *collateral.Raw) *peerGetter {
	t.Helper()
	wrap := func(name string, doc, sig []byte) []byte {
		b, err := json.Marshal(map[string]json.RawMessage{name: doc, "signature": fmt.Appendf(nil, "%q", hex.EncodeToString(sig))})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	header := func(name string, chain []byte) map[string][]string {
		return map[string][]string{name: {url.QueryEscape(string(chain))}}
	}
	return &peerGetter{
		chains: [3]map[string][]string{
			header("Tcb-Info-Issuer-Chain", raw.TCBInfoIssuerChain),
			header("Sgx-Enclave-Identity-Issuer-Chain", raw.QEIdentityIssuerChain),
			header("Sgx-Pck-Crl-Issuer-Chain", raw.PCKCRLIssuerChain),
		},
		info: wrap("tcbInfo", raw.TCBInfo, raw.TCBInfoSignature), qe: wrap("enclaveIdentity", raw.QEIdentity, raw.QEIdentitySignature),
		pckCRL: raw.PCKCRL, root: raw.RootCACRL,
	}
}

func (g *peerGetter) Get(u string) (map[string][]string, []byte, error) {
	switch {
	case strings.Contains(u, "/tcb?"):
		return g.chains[0], g.info, nil
	case strings.Contains(u, "/qe/identity"):
		return g.chains[1], g.qe, nil
	case strings.Contains(u, "/pckcrl?"):
		return g.chains[2], g.pckCRL, nil
	default:
		return nil, g.root, nil
	}
}

// peerVerifier is go-tdx-guest's full verification: with collateral and CRLs,
// from memory, under the same root.
func peerVerifier(t testing.TB, quote []byte, raw *collateral.Raw, now time.Time, rootPEM []byte) func() error {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(rootPEM) {
		t.Fatal("adding the root for go-tdx-guest")
	}
	getter := newPeerGetter(t, raw)
	return func() error {
		return peer.RawTdxQuote(quote, &peer.Options{CheckRevocations: true, GetCollateral: true, Getter: getter, Now: now, TrustedRoots: pool})
	}
}
