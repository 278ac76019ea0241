package sgx

import (
	"bytes"
	"context"
	"crypto/hpke"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"cocoon/enclave/seal"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/collateral"
	"cocoon/verifier/evidence"
	"cocoon/verifier/pck"
	dcappolicy "cocoon/verifier/policy/dcap"
	"cocoon/verifier/sgx"
)

// SealerName is seal.Header's name for this sealer, and the label of its keys.
const SealerName = "sgx-enclave"

// Timeout bounds an exchange: two quotes and their collateral.
const Timeout = 2 * time.Minute

// Options of a Sealer.
type Options struct {
	Dial    func(ctx context.Context) (net.Conn, error) // reaches the enclave, over the host
	Quote   func(ctx context.Context, data [64]byte) ([]byte, error)
	Enclave evidence.SealingEnclave // which one, by the measured config
	Config  digest.SHA256           // hash of the measured config
	Random  io.Reader
	Roots   *pck.Roots       // nil: Intel's
	Clock   func() time.Time // nil: time.Now
}

// Sealer is the TD's half; it implements seal.Sealer.
type Sealer struct{ o Options }

// New returns a sealer. Nothing is asked until a key is sealed or wanted.
func New(o Options) *Sealer {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return &Sealer{o}
}

// Name implements seal.Sealer.
func (*Sealer) Name() string { return SealerName }

// A sealed key begins with a version and the key info.
const (
	blobVersion = 1
	blobPrefix  = 1
	blobHeader  = blobPrefix + KeyInfoSize
)

// Seal implements seal.Sealer.
func (s *Sealer) Seal(key []byte) ([]byte, error) {
	root, info, err := s.exchange(nil)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	defer clear(root)
	w, err := seal.WrappingKey(root, s.o.Config, SealerName)
	if err != nil {
		return nil, err
	}
	defer clear(w)
	return seal.Wrap(w, append([]byte{blobVersion}, info...), key, s.o.Random)
}

// Unseal implements seal.Sealer. An enclave that cannot be reached is no
// refusal: the key is still there.
func (s *Sealer) Unseal(blob []byte) ([]byte, error) {
	if len(blob) < blobHeader+seal.Overhead || len(blob) > seal.MaxBlob || blob[0] != blobVersion {
		return nil, seal.Refused(fmt.Errorf("sealed key of %d bytes is of another form", len(blob)))
	}
	info := blob[blobPrefix:blobHeader]
	if err := s.checkKeyInfo(info); err != nil {
		return nil, seal.Refused(err)
	}
	root, _, err := s.exchange(info)
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	defer clear(root)
	w, err := seal.WrappingKey(root, s.o.Config, SealerName)
	if err != nil {
		return nil, err
	}
	defer clear(w)
	return seal.Unwrap(w, blob, blobHeader)
}

// checkKeyInfo refuses keys of versions of the enclave that the config trusts
// no more: whoever broke one of them has its keys.
func (s *Sealer) checkKeyInfo(info []byte) error {
	v, err := svn(info)
	if err == nil && v < s.o.Enclave.MinSVN {
		err = fmt.Errorf("the key is of version %d of the enclave, the config wants %d or later", v, s.o.Enclave.MinSVN)
	}
	return err
}

// exchange asks the enclave for the root key of key info, or for a new one.
func (s *Sealer) exchange(info []byte) (root, newInfo []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	conn, err := s.o.Dial(ctx)
	if err != nil {
		return nil, nil, away(err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	h := hello{Format: Format}
	if _, err := io.ReadFull(s.o.Random, h.Nonce[:]); err != nil {
		return nil, nil, fmt.Errorf("making nonce: %w", err)
	}
	var c hello
	if err := turn(conn, h, &c); err != nil {
		return nil, nil, err
	}
	if err := checkFormat(c.Format); err != nil {
		return nil, nil, err
	}
	kem, _, _ := suite()
	private, err := kem.GenerateKey()
	if err != nil {
		return nil, nil, fmt.Errorf("making key: %w", err)
	}
	a := ask{Format: Format, Key: private.PublicKey().Bytes(), KeyInfo: append([]byte{}, info...)}
	if a.Quote, err = s.o.Quote(ctx, askData(h.Nonce, c.Nonce, &a)); err != nil {
		return nil, nil, err
	}
	doc, err := write(conn, a)
	if err != nil {
		return nil, nil, away(err)
	}
	var out answer
	if _, err := read(conn, &out); err != nil {
		return nil, nil, away(err)
	}
	if err := s.check(h.Nonce, c.Nonce, info, doc, &out); err != nil {
		return nil, nil, err
	}
	root, err = open(private, envelopeInfo(h.Nonce, c.Nonce), out.Envelope)
	return root, out.KeyInfo, err
}

// turn sends a message and reads the answer to it.
func turn(conn net.Conn, v, answer any) error {
	if _, err := write(conn, v); err != nil {
		return away(err)
	}
	if _, err := read(conn, answer); err != nil {
		return away(err)
	}
	return nil
}

// away is the fault of an enclave that does not answer, or not to the end.
func away(err error) error {
	if len(fault.All(err)) > 0 {
		return err
	}
	return fault.New(fault.ExitNetwork, CodeAway, "start the sealing enclave on the host, and name its address in operator.json", "asking the sealing enclave: %w", err)
}

func open(private hpke.PrivateKey, info, envelope []byte) ([]byte, error) {
	_, kdf, aead := suite()
	const encapsulated = 1088 + 32 // of ML-KEM-768 and X25519
	fail := func(err error) ([]byte, error) {
		return nil, fault.New(fault.ExitRefused, CodeBinding, "try again", "opening the enclave's answer: %w", err)
	}
	if len(envelope) <= encapsulated {
		return fail(fmt.Errorf("%d bytes", len(envelope)))
	}
	r, err := hpke.NewRecipient(envelope[:encapsulated], private, kdf, aead, info)
	if err != nil {
		return fail(err)
	}
	root, err := r.Open(nil, envelope[encapsulated:])
	if err != nil {
		return fail(err)
	}
	return root, nil
}

// check verifies the enclave: it is the one place that decides whom a TD
// believes (DESIGN section 2). The enclave must be genuine on a platform that
// is up to date, not under debug, of the signer, product and least version that
// the measured config names, and its quote must be over this very exchange.
func (s *Sealer) check(td, enclave digest.SHA256, info, doc []byte, a *answer) error {
	if err := checkFormat(a.Format); err != nil {
		return err
	}
	if a.Refused != "" {
		return fault.New(fault.ExitRefused, CodeDenied, "see the enclave's reason", "asking the sealing enclave: it refused: %.1024q", a.Refused)
	}
	refuse := func(err error) error {
		return fault.New(fault.ExitRefused, CodeEnclave, "run the sealing enclave that the config names, on a platform that is up to date", "verifying the sealing enclave: %w", err)
	}
	col, err := parseCollateral(a.Collateral)
	if err != nil {
		return refuse(err)
	}
	now := s.o.Clock()
	res, err := sgx.Verify(a.Quote, &sgx.Options{Roots: s.o.Roots, Now: now, RawCollateral: col})
	if err != nil || !res.Genuine {
		return refuse(errors.Join(err, errNotGenuine))
	}
	e := s.o.Enclave
	p := dcappolicy.Policy{SGX: &dcappolicy.SGX{MRSigner: []digest.SHA256{e.Signer}, ISVProdIDs: []uint16{e.Product}, MinISVSVN: e.MinSVN}}
	if err := refusals(p.AppraiseSGX(res, now)); err != nil {
		return refuse(err)
	}
	if res.Debug {
		return refuse(errors.New("it is under debug"))
	}
	if res.Enclave.ReportData != answerData(td, enclave, doc, a) {
		return fault.New(fault.ExitRefused, CodeBinding, "try again", "verifying the sealing enclave: its quote is not over this exchange")
	}
	if len(info) > 0 && !bytes.Equal(info, a.KeyInfo) {
		return malformed("key info of %d bytes is not that which was asked for", len(a.KeyInfo))
	}
	if err := s.checkKeyInfo(a.KeyInfo); err != nil {
		return refuse(err)
	}
	return nil
}

func parseCollateral(doc json.RawMessage) (*collateral.Raw, error) {
	if len(doc) == 0 {
		return nil, errors.New("it sent no collateral")
	}
	return collateral.ParseJSON(doc)
}
