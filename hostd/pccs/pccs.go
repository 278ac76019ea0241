// Package pccs asks a provisioning certificate caching service, or Intel's own
// PCS, whether it knows a platform: without the platform's PCK certificate there
// no TDX quote can be verified. In come the service's address and the platform's
// identifiers, as Intel's PCKIDRetrievalTool writes them; out comes the verified
// certificate's FMSPC, or a fault that says what is to be done.
//
// Definitions: Intel SGX PCS API v4, "Get PCK Certificate"; the caching
// service's additional status codes, 461 and 462, are those of Intel's PCCS
// design guide, section 3.
package pccs

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/pck"
)

// Limits.
const (
	MaxID       = 64 << 10 // bytes of a file of identifiers; it may hold the platform manifest
	maxAnswer   = 64 << 10
	askTimeout  = 3 * time.Second
	statusNone  = 461 // the platform is not in the cache
	statusCerts = 462 // it is, and Intel has no certificate for it
)

// ID are the identifiers of a platform, hex.
type ID struct {
	EncryptedPPID string // 384 bytes
	PCEID         string // 2
	CPUSVN        string // 16
	PCESVN        string // 2
	QEID          string // 16
}

// ParseID reads what PCKIDRetrievalTool writes: one line of values with commas
// between, in the order of ID, after which the platform's manifest may follow.
func ParseID(b []byte) (*ID, error) {
	if len(b) > MaxID {
		return nil, fmt.Errorf("reading platform identifiers: more than %d bytes", MaxID)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	f := strings.Split(strings.TrimSpace(line), ",")
	want := []struct {
		name  string
		bytes int
	}{{"EncryptedPPID", 384}, {"PCE_ID", 2}, {"CPUSVN", 16}, {"PCE ISVSVN", 2}, {"QE_ID", 16}}
	if len(f) < len(want) {
		return nil, fmt.Errorf("reading platform identifiers: %d values, want %d", len(f), len(want))
	}
	for i, w := range want {
		f[i] = strings.ToLower(strings.TrimSpace(f[i]))
		if v, err := hex.DecodeString(f[i]); err != nil || len(v) != w.bytes {
			return nil, fmt.Errorf("reading platform identifiers: %s is not %d bytes in hex", w.name, w.bytes)
		}
	}
	return &ID{EncryptedPPID: f[0], PCEID: f[1], CPUSVN: f[2], PCESVN: f[3], QEID: f[4]}, nil
}

// Options of a question.
type Options struct {
	// URL is the service's base, such as https://localhost:8081/sgx/certification/v4/.
	URL   string
	Key   string     // for Intel's own service; a caching service asks for none
	Roots *pck.Roots // nil: Intel's
	// AnyCertificate accepts every TLS certificate: a caching service has one of
	// its own making. What it answers is signed by Intel.
	AnyCertificate bool
}

// Ask asks whether the service knows the platform, and returns its FMSPC.
func Ask(ctx context.Context, o Options, id *ID) (fmspc string, err error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Hostname() == "" || base.Scheme != "https" && base.Scheme != "http" {
		return "", fault.New(fault.ExitParse, "pccs.url", "give the service's base, such as https://localhost:8081/sgx/certification/v4/", "reading the address %.200q", o.URL)
	}
	q := url.Values{"encrypted_ppid": {id.EncryptedPPID}, "pceid": {id.PCEID}, "cpusvn": {id.CPUSVN}, "pcesvn": {id.PCESVN}, "qeid": {id.QEID}}
	u := base.JoinPath("pckcert")
	u.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", fmt.Errorf("asking the PCCS: %w", err)
	}
	if o.Key != "" {
		req.Header.Set("Ocp-Apim-Subscription-Key", o.Key)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.AnyCertificate}, DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return "", fault.New(fault.ExitNetwork, "pccs.unreachable", "systemctl start pccs, or name another", "asking the PCCS at %s: %w", base.Host, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer {
		return "", fault.New(fault.ExitNetwork, "pccs.unreachable", "try again", "reading the answer of the PCCS at %s: %w", base.Host, errors.Join(err, errTooLong))
	}
	const register = "register the platform: install sgx-ra-service and boot once with a network, or BIOS: SGX factory reset; a PCCS without a way to Intel has to be filled with PCCSAdminTool"
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, statusNone:
		return "", fault.New(fault.ExitNotReady, "pccs.unknown", register, "asking the PCCS at %s: it does not know this platform (HTTP status %d)", base.Host, resp.StatusCode)
	case statusCerts:
		return "", fault.New(fault.ExitNotReady, "pccs.no_certificate", register, "asking the PCCS at %s: Intel has no certificate for this platform's TCB", base.Host)
	case http.StatusUnauthorized, http.StatusForbidden:
		return "", fault.New(fault.ExitNotReady, "pccs.key", "give your subscription key of Intel's service", "asking %s: it takes no such key", base.Host)
	default:
		return "", fault.New(fault.ExitNetwork, "pccs.status", "see the log of the PCCS", "asking the PCCS at %s: HTTP status %d", base.Host, resp.StatusCode)
	}
	chain, err := url.PathUnescape(resp.Header.Get("SGX-PCK-Certificate-Issuer-Chain"))
	if err != nil || len(chain) > maxAnswer {
		return "", bad(base.Host, errors.New("its issuer chain cannot be read"))
	}
	roots := o.Roots
	if roots == nil {
		roots = pck.IntelRoots()
	}
	c, err := pck.Verify(append(append(body, '\n'), chain...), roots, nil)
	if err != nil {
		return "", bad(base.Host, err)
	}
	return hex.EncodeToString(c.Extensions.FMSPC[:]), nil
}

var errTooLong = errors.New("it is too long, or was cut")

func bad(host string, err error) error {
	return fault.New(fault.ExitRefused, "pccs.certificate", "see what the PCCS was filled with", "asking the PCCS at %s: its certificate for this platform is none of Intel's: %w", host, err)
}
