package handover

import (
	"context"
	"crypto/rand"
	"fmt"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls/envelope"
)

// Taker is the new enclave, in one exchange.
type Taker struct {
	Party
	challenge digest.SHA256
	disk      digest.SHA256
	askDoc    []byte
	key       *envelope.Key
}

// Hello opens an exchange.
func (t *Taker) Hello() ([]byte, error) {
	if _, err := rand.Read(t.challenge[:]); err != nil {
		return nil, fmt.Errorf("making challenge: %w", err)
	}
	t.askDoc, t.key = nil, nil
	return encode(hello{Format: Format, Challenge: t.challenge})
}

// Ask answers an offer.
func (t *Taker) Ask(ctx context.Context, offerDoc []byte) ([]byte, error) {
	var o offer
	if err := decode(offerDoc, &o, &o.Format); err != nil {
		return nil, err
	}
	doc, err := t.Evidence(ctx, o.Challenge)
	if err != nil {
		return nil, err
	}
	if t.key, err = envelope.NewKey(envelope.PurposeHandover, o.Challenge, doc, t.Receipt); err != nil {
		return nil, err
	}
	t.disk = o.Disk
	t.askDoc, err = encode(ask{Format: Format, Taker: t.challenge, Disk: o.Disk, Evidence: doc, Request: t.key.Request()})
	return t.askDoc, err
}

// Take decides about a grant and returns the disk's key. It is the one place
// where a key comes into this enclave from outside.
func (t *Taker) Take(ctx context.Context, grantDoc []byte, m Material) ([]byte, error) {
	var g grant
	if err := decode(grantDoc, &g, &g.Format); err != nil {
		return nil, err
	}
	if t.key == nil {
		return nil, fault.New(fault.ExitRefused, CodeMessage, "begin the hand-over anew", "reading the grant: nothing was asked for")
	}
	own, err := readManifest(m.Own)
	if err != nil {
		return nil, err
	}
	peer, err := readManifest(m.Peer)
	if err != nil {
		return nil, err
	}
	if err := later(peer, own); err != nil {
		return nil, err
	}
	_, state, err := t.state(ctx)
	if err != nil {
		return nil, err
	}
	// The registry must still list the giver's image, were it in grace: a
	// revoked one may be the host's.
	res, err := t.peer(ctx, g.Evidence, m.PeerCollateral, peer, state, t.challenge)
	if err != nil {
		return nil, err
	}
	if err := g.verify(res.Claims.ReceiptKey, t.askDoc); err != nil {
		return nil, err
	}
	key, err := t.key.Open(g.Envelope, bound(t.disk, res.Claims.ConfigSHA256))
	if err != nil {
		return nil, err
	}
	if DiskID(key) != t.disk {
		clear(key)
		return nil, fault.New(fault.ExitRefused, CodeDisk, "begin the hand-over anew", "reading the grant: the key is another disk's")
	}
	t.key = nil
	return key, nil
}
