//go:build cgo

package pkcs11key

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"
)

// sessions is how many signatures a token makes at the same time at most.
const sessions = 4

// Mechanisms that the package pkcs11 has no names for (PKCS #11 version 3.1,
// section 6.3.1).
const (
	ckmEdwardsKeyPairGen = 0x1055
	ckmEdDSA             = 0x1057
)

// Modules are the modules of this process. A module is loaded once and stays:
// finalising it would end the sessions of every key in it. The zero value is
// ready.
type Modules struct {
	mu   sync.Mutex
	open map[string]*pkcs11.Ctx
}

func (m *Modules) load(path string) (*pkcs11.Ctx, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.open[path]; c != nil {
		return c, nil
	}
	c := pkcs11.New(path)
	if c == nil {
		return nil, fmt.Errorf("opening token: %s is no PKCS #11 module", path)
	}
	if err := c.Initialize(); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		c.Destroy()
		return nil, fmt.Errorf("initialising %s: %w", path, err)
	}
	if m.open == nil {
		m.open = map[string]*pkcs11.Ctx{}
	}
	m.open[path] = c
	return c, nil
}

func is(err error, code uint) bool {
	var e pkcs11.Error
	return errors.As(err, &e) && uint(e) == code
}

// key implements Key.
type key struct {
	o      Options
	c      *pkcs11.Ctx
	slot   uint
	public ed25519.PublicKey
	free   chan session // a zero one is to be opened
}

type session struct {
	open    bool
	handle  pkcs11.SessionHandle
	private pkcs11.ObjectHandle
}

// Open finds a key and has it sign something, so that a wrong name, PIN or kind
// of key is found before a verdict is.
func (m *Modules) Open(o Options) (Key, error) {
	c, err := m.load(o.Module)
	if err != nil {
		return nil, err
	}
	k := &key{o: o, c: c, free: make(chan session, sessions)}
	if k.slot, err = findToken(c, o.Token); err != nil {
		return nil, err
	}
	s, err := k.begin()
	if err != nil {
		return nil, err
	}
	for range sessions - 1 {
		k.free <- session{}
	}
	k.free <- s
	if k.public, err = k.readPublic(s); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	var probe [32]byte
	if _, err := rand.Read(probe[:]); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	sig, err := k.Sign(nil, probe[:], crypto.Hash(0))
	if err == nil && !ed25519.Verify(k.public, probe[:], sig) {
		err = fmt.Errorf("opening token: public and private key %q are no pair", o.Label)
	}
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func findToken(c *pkcs11.Ctx, label string) (uint, error) {
	slots, err := c.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("listing tokens: %w", err)
	}
	found := []uint{}
	for _, s := range slots {
		info, err := c.GetTokenInfo(s)
		if err != nil {
			return 0, fmt.Errorf("reading token: %w", err)
		}
		if strings.TrimRight(info.Label, " \x00") == label {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("opening token: %d tokens are called %q, want 1", len(found), label)
	}
	return found[0], nil
}

// begin opens a session and finds the private key in it.
func (k *key) begin() (session, error) {
	h, err := k.c.OpenSession(k.slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return session{}, fmt.Errorf("opening session: %w", err)
	}
	s := session{open: true, handle: h}
	// The login is the token's: every session of this process has it.
	if err := k.c.Login(h, pkcs11.CKU_USER, k.o.PIN); err != nil && !is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		return session{}, errors.Join(fmt.Errorf("logging in to token %q: %w", k.o.Token, err), k.c.CloseSession(h))
	}
	if s.private, err = k.find(s, pkcs11.CKO_PRIVATE_KEY); err != nil {
		return session{}, errors.Join(err, k.c.CloseSession(h))
	}
	return s, nil
}

// find returns the one object of the key's label and a class.
func (k *key) find(s session, class uint) (pkcs11.ObjectHandle, error) {
	err := k.c.FindObjectsInit(s.handle, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.o.Label)})
	if err != nil {
		return 0, fmt.Errorf("looking for key %q: %w", k.o.Label, err)
	}
	list, _, err := k.c.FindObjects(s.handle, 2)
	if err := errors.Join(err, k.c.FindObjectsFinal(s.handle)); err != nil {
		return 0, fmt.Errorf("looking for key %q: %w", k.o.Label, err)
	}
	if len(list) != 1 {
		return 0, fmt.Errorf("looking for key %q: token %q has not one public and one private key of that label", k.o.Label, k.o.Token)
	}
	return list[0], nil
}

// readPublic reads CKA_EC_POINT: an OCTET STRING with the raw key, or from some
// tokens the raw key.
func (k *key) readPublic(s session) (ed25519.PublicKey, error) {
	h, err := k.find(s, pkcs11.CKO_PUBLIC_KEY)
	if err != nil {
		return nil, err
	}
	attrs, err := k.c.GetAttributeValue(s.handle, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil || len(attrs) != 1 {
		return nil, fmt.Errorf("reading public key %q: %w", k.o.Label, errors.Join(err, errors.New("it has no EC point")))
	}
	raw := attrs[0].Value
	var inner []byte
	if rest, err := asn1.Unmarshal(raw, &inner); err == nil && len(rest) == 0 {
		raw = inner
	}
	if len(raw) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("reading public key %q: it is no Ed25519 key", k.o.Label)
	}
	return ed25519.PublicKey(raw), nil
}

// Public implements crypto.Signer.
func (k *key) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer for Ed25519: of the message itself.
func (k *key) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("signing in token: a hash, want the message")
	}
	s, ok := <-k.free
	if !ok {
		return nil, errors.New("signing in token: it is closed")
	}
	defer func() { k.free <- s }()
	var err error
	// A session ends when the token is taken out, reset or updated: once more
	// with a new one.
	for range 2 {
		if !s.open {
			if s, err = k.begin(); err != nil {
				return nil, err
			}
		}
		var sig []byte
		if err = k.c.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmEdDSA, nil)}, s.private); err == nil {
			sig, err = k.c.Sign(s.handle, message)
		}
		if err == nil && len(sig) == ed25519.SignatureSize {
			return sig, nil
		}
		_ = k.c.CloseSession(s.handle) // it may be gone already
		s = session{}
	}
	if err == nil {
		err = errors.New("it is no Ed25519 signature")
	}
	return nil, fmt.Errorf("signing in token: %w", err)
}

// Close implements Key. It waits for signatures under way.
func (k *key) Close() error {
	var errs []error
	for range sessions {
		if s := <-k.free; s.open {
			errs = append(errs, k.c.CloseSession(s.handle))
		}
	}
	close(k.free)
	return errors.Join(errs...)
}
