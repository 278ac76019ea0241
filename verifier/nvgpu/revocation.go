package nvgpu

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu/ocsp"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/result"
)

// maxAnswers bounds the responses that are verified for one certificate: who
// sends many must not make many signatures be verified. The first ones count.
const maxAnswers = 8

// ocspSet is the responses of one verification, and what they said of each
// certificate that was asked for: the devices of a machine share most.
type ocspSet struct {
	raw   [][]byte
	used  []bool
	known map[[2]string]verdict
}

// verdict is what the responses say of one certificate.
type verdict struct {
	status string // result.Pass, Fail or Skip
	reason string
	until  time.Time
}

// revocation checks the certificates of the device chain between leaf and
// root. NVIDIA's responder does not answer for leaves: the boot ROM's
// certificate stands for the device.
func (r *run) revocation(d *Device) {
	r.revoked(d, "gpu.ocsp", d.chain.certs[certBROM:])
}

// rimRevocation checks the certificates of the RIM signers below the root.
func (r *run) rimRevocation(d *Device, docs []*rim.Document) {
	var chains [][]*x509.Certificate
	for _, doc := range docs {
		chains = append(chains, doc.Chain)
	}
	if len(chains) == 0 {
		d.skip("gpu.rim.ocsp", "no RIM was used")
		return
	}
	r.revoked(d, "gpu.rim.ocsp", chains...)
}

// revoked makes one check of chains of certificates, each issued by the next.
func (r *run) revoked(d *Device, id string, chains ...[]*x509.Certificate) {
	var bad, without []string
	n := 0
	for _, certs := range chains {
		for i := range len(certs) - 1 {
			n++
			v := r.ocsp.verdict(r, certs[i], certs[i+1])
			text := fmt.Sprintf("%s %x", certs[i].Subject.CommonName, certs[i].SerialNumber)
			switch v.status {
			case result.Fail:
				bad = append(bad, text+": "+v.reason)
			case result.Skip:
				without = append(without, text)
			default:
				d.until(v.until)
			}
		}
	}
	switch {
	case len(bad) > 0:
		d.fail(id, fmt.Sprintf("%d good certificates", n), strings.Join(bad, "; "), "revocation status is not good", "give fresh OCSP responses; do not use what is revoked")
	case len(without) > 0:
		d.skip(id, fmt.Sprintf("no OCSP response for %d of %d certificates: %s", len(without), n, without[0]))
	default:
		d.pass(id, fmt.Sprintf("%d good certificates", n))
	}
}

// verdict finds what the responses say of a certificate. The newest good
// signature decides; a revocation in any of them is one.
func (s *ocspSet) verdict(r *run, cert, parent *x509.Certificate) verdict {
	key := [2]string{string(cert.Raw), string(parent.Raw)}
	if v, ok := s.known[key]; ok {
		return v
	}
	v := s.judge(r, cert, parent)
	s.known[key] = v
	return v
}

func (s *ocspSet) judge(r *run, cert, parent *x509.Certificate) verdict {
	out := verdict{status: result.Skip}
	var refused error
	var newest time.Time
	tried := 0
	number, err := asn1.Marshal(cert.SerialNumber)
	if err != nil {
		return verdict{status: result.Fail, reason: err.Error()}
	}
	for i, raw := range s.raw {
		// An answer about a certificate holds its serial number: a cheap way past
		// all others, whose signatures need not be verified to know that.
		if !bytes.Contains(raw, number) {
			continue
		}
		if tried++; tried > maxAnswers {
			break
		}
		resp, err := ocsp.Verify(raw, cert, parent, &ocsp.Options{Now: r.now, Nonce: r.o.OCSPNonce, MaxAge: r.o.OCSPMaxAge, Cache: r.cache.ocsp})
		if err != nil {
			if !fault.Has(err, "ocsp.cert_id") {
				s.used[i] = true
				refused = err
			}
			continue
		}
		s.used[i] = true
		v := verdict{status: result.Pass, until: resp.Until}
		switch {
		case resp.Status == ocsp.Good, resp.Status == ocsp.Hold && r.o.AllowHold:
		case resp.Status == ocsp.Hold:
			v.status, v.reason = result.Fail, "revoked, certificate hold since "+stamp(resp.RevokedAt)
		case resp.Status == ocsp.Revoked:
			v.status, v.reason = result.Fail, fmt.Sprintf("revoked at %s, reason %d", stamp(resp.RevokedAt), resp.Reason)
		default:
			v.status, v.reason = result.Fail, "unknown to its issuer"
		}
		if v.status == result.Fail {
			return v
		}
		if out.status != result.Pass || resp.ThisUpdate.After(newest) {
			out, newest = v, resp.ThisUpdate
		}
	}
	if out.status == result.Skip && refused != nil {
		return verdict{status: result.Fail, reason: strings.ReplaceAll(refused.Error(), "\n", "; ")}
	}
	return out
}

// count returns how many responses were about a certificate.
func (s *ocspSet) count() (n int) {
	for _, u := range s.used {
		if u {
			n++
		}
	}
	return n
}
