package sgx

import (
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/collateral"
	"cocoon/verifier/pck"
	dcappolicy "cocoon/verifier/policy/dcap"
	"cocoon/verifier/quote"
	"cocoon/verifier/result"
	"cocoon/verifier/tdx"
)

// Enclave is what the server asks of the enclave it runs in.
type Enclave interface {
	// Quote returns an SGX quote over data.
	Quote(data [64]byte) ([]byte, error)
	// NewSealKey returns a sealing key of the enclave's signer and product, and
	// the information by which SealKey finds it again: a key request.
	NewSealKey() (key, info []byte, err error)
	SealKey(info []byte) (key []byte, err error)
}

// Collateral fetches Intel's collateral for a quote. It comes from the host
// and is verified like anything else of its.
type Collateral func(quote []byte) (*collateral.Raw, error)

// Server is the enclave's half. Its methods may be called at the same time.
type Server struct {
	Enclave    Enclave
	Collateral Collateral
	Roots      *pck.Roots         // nil: Intel's
	Policy     *dcappolicy.Policy // for TDs; nil: the default, up to date and not under debug
	Clock      func() time.Time   // nil: time.Now
}

// Serve makes one exchange. What it returns is for the enclave's log; the peer
// was told.
func (s *Server) Serve(conn io.ReadWriter) error {
	var h hello
	if _, err := read(conn, &h); err != nil {
		return err
	}
	if err := checkFormat(h.Format); err != nil {
		return err
	}
	c := hello{Format: Format}
	if _, err := rand.Read(c.Nonce[:]); err != nil {
		return fmt.Errorf("making nonce: %w", err)
	}
	if _, err := write(conn, c); err != nil {
		return err
	}
	var a ask
	doc, err := read(conn, &a)
	if err != nil {
		return err
	}
	out, err := s.answer(h.Nonce, c.Nonce, &a, doc)
	if err != nil {
		out = &answer{Format: Format, Refused: truncate(err.Error(), 1024)}
	}
	_, werr := write(conn, out)
	return errors.Join(err, werr)
}

func truncate(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func (s *Server) answer(td, enclave digest.SHA256, a *ask, doc []byte) (*answer, error) {
	if err := checkFormat(a.Format); err != nil {
		return nil, err
	}
	if len(a.KeyInfo) > 0 {
		if _, err := svn(a.KeyInfo); err != nil {
			return nil, malformed("%w", err)
		}
	}
	kem, kdf, aead := suite()
	public, err := kem.NewPublicKey(a.Key)
	if err != nil {
		return nil, malformed("%w", err)
	}
	id, err := s.identify(a.Quote, askData(td, enclave, a))
	if err != nil {
		return nil, err
	}
	out := &answer{Format: Format, KeyInfo: a.KeyInfo}
	var key []byte
	if len(a.KeyInfo) == 0 {
		key, out.KeyInfo, err = s.Enclave.NewSealKey()
	} else {
		key, err = s.Enclave.SealKey(a.KeyInfo)
	}
	if err == nil {
		_, err = svn(out.KeyInfo)
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the enclave's sealing key: %w", err)
	}
	defer clear(key)
	root, err := rootKey(key, id)
	if err != nil {
		return nil, err
	}
	defer clear(root)
	enc, sender, err := hpke.NewSender(public, kdf, aead, envelopeInfo(td, enclave))
	if err != nil {
		return nil, fmt.Errorf("encrypting the root key: %w", err)
	}
	ct, err := sender.Seal(nil, root)
	if err != nil {
		return nil, fmt.Errorf("encrypting the root key: %w", err)
	}
	out.Envelope = append(enc, ct...)
	if out.Quote, err = s.Enclave.Quote(answerData(td, enclave, doc, out)); err != nil {
		return nil, fmt.Errorf("quoting: %w", err)
	}
	raw, err := s.Collateral(out.Quote)
	if err != nil {
		return nil, fmt.Errorf("fetching collateral: %w", err)
	}
	col, err := json.Marshal(raw)
	out.Collateral = col
	return out, err
}

// rootKey derives a TD's key from the enclave's. An enclave outside of SGX has
// zeros for a key.
func rootKey(key []byte, id digest.SHA256) ([]byte, error) {
	nothing := true
	for _, b := range key {
		nothing = nothing && b == 0
	}
	if len(key) < 16 || nothing {
		return nil, errors.New("asking for the enclave's sealing key: it is not one of SGX")
	}
	return hkdf.Key(sha256.New, key, id[:], "cocoon-seal-sgx-root", 32)
}

// identify verifies a TD's quote over data and returns what its key is bound
// to. It is the one place that decides which TDs get keys (DESIGN section 2):
// genuine ones whose platform the policy accepts, never one under debug, never
// one with a service TD, which could reach into it.
func (s *Server) identify(raw []byte, want [64]byte) (digest.SHA256, error) {
	refuse := func(err error) (digest.SHA256, error) {
		return digest.SHA256{}, fault.New(fault.ExitRefused, CodeTD, "run the TD on a platform that is up to date, without debug", "verifying the TD: %w", err)
	}
	o := &tdx.Options{Roots: s.Roots, Now: s.now()}
	// Nothing is fetched for what is no quote.
	if _, err := quote.Parse(raw, quote.Options{}); err != nil {
		return refuse(err)
	}
	col, err := s.Collateral(raw)
	if err != nil {
		return refuse(fmt.Errorf("fetching collateral: %w", err))
	}
	o.RawCollateral = col
	res, err := tdx.Verify(raw, o)
	if err != nil || !res.Genuine {
		return refuse(errors.Join(err, errNotGenuine))
	}
	p := s.Policy
	if p == nil {
		p = dcappolicy.Default()
	}
	if err := refusals(p.AppraiseTDX(res, o.Now)); err != nil {
		return refuse(err)
	}
	if res.Debug || res.TD.MRServiceTD != [48]byte{} {
		return refuse(errors.New("it is under debug, or a service TD is bound to it"))
	}
	if res.TD.ReportData != want {
		return digest.SHA256{}, fault.New(fault.ExitRefused, CodeBinding, "ask again", "verifying the TD: its quote is not over this exchange")
	}
	return identity(&res.TD), nil
}

var errNotGenuine = errors.New("the quote is not genuine")

func (s *Server) now() time.Time {
	if s.Clock == nil {
		return time.Now()
	}
	return s.Clock()
}

// identity is what a key is bound to: the firmware, what it booted, what the
// supervisor measured, how the TD was launched. RTMR0 is left out, as PCR 1 is
// for a TPM: it changes with the machine's memory.
func identity(t *quote.TDReport) digest.SHA256 {
	h := sha256.New()
	h.Write([]byte("cocoon-seal-sgx-identity\x00"))
	for _, f := range [][]byte{t.Attributes[:], t.MRTD[:], t.MRConfigID[:], t.MROwner[:], t.MROwnerConfig[:], t.RTMR[1][:], t.RTMR[2][:], t.RTMR[3][:]} {
		h.Write(f) // each has its fixed length
	}
	return digest.SHA256(h.Sum(nil))
}

// refusals joins the failed checks of a policy.
func refusals(checks []result.Check) error {
	var errs []error
	for _, c := range checks {
		if c.Status == result.Fail {
			errs = append(errs, fmt.Errorf("%s: %s (expected %s, found %s)", c.ID, c.Reason, c.Expected, c.Actual))
		}
	}
	return errors.Join(errs...)
}

// suite is HPKE's: X25519 with ML-KEM-768, HKDF-SHA256, AES-256-GCM.
func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

func envelopeInfo(td, enclave digest.SHA256) []byte {
	d := data("cocoon-seal-sgx-envelope\x00", td[:], enclave[:])
	return d[:]
}
