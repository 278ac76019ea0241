package handover

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls/envelope"
)

// Giver is the old enclave. Its methods may be called at the same time.
type Giver struct {
	Party
	// Key returns the data disk's key, unsealed for this use.
	Key func() ([]byte, error)

	mu   sync.Mutex
	open map[digest.SHA256]time.Time // challenges that were given out, and until when
}

// Offer answers a hello: a challenge of this enclave's, good for one ask.
func (g *Giver) Offer(helloDoc []byte) ([]byte, error) {
	var h hello
	if err := decode(helloDoc, &h, &h.Format); err != nil {
		return nil, err
	}
	key, err := g.Key()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	o := offer{Format: Format, Disk: DiskID(key)}
	if _, err := rand.Read(o.Challenge[:]); err != nil {
		return nil, fmt.Errorf("making challenge: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if g.open == nil {
		g.open = map[digest.SHA256]time.Time{}
	}
	for c, until := range g.open {
		if !now.Before(until) {
			delete(g.open, c)
		}
	}
	if len(g.open) >= MaxChallenges {
		return nil, fault.New(fault.ExitNotReady, CodeChallenge, "try again in some minutes", "making challenge: %d are open", len(g.open))
	}
	g.open[o.Challenge] = now.Add(ChallengeLife)
	return encode(o)
}

// redeem ends a challenge, whatever comes of the ask.
func (g *Giver) redeem(c digest.SHA256) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, ok := g.open[c]
	delete(g.open, c)
	if !ok || !g.now().Before(until) {
		return fault.New(fault.ExitRefused, CodeChallenge, "begin the hand-over anew", "reading ask: it answers no open challenge of this enclave")
	}
	return nil
}

// Grant decides about an ask and answers it. It is the one place that lets a
// disk's key out of this enclave.
func (g *Giver) Grant(ctx context.Context, askDoc []byte, m Material) ([]byte, error) {
	var a ask
	if err := decode(askDoc, &a, &a.Format); err != nil {
		return nil, err
	}
	req, err := envelope.ParseRequest(a.Request)
	if err != nil {
		return nil, err
	}
	if err := g.redeem(req.Challenge); err != nil {
		return nil, err
	}
	key, err := g.Key()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	if id := DiskID(key); a.Disk != id {
		return nil, fault.Mismatch(fault.ExitRefused, CodeDisk, "the data disk", id.String(), a.Disk.String(), "ask the machine that has this disk")
	}
	own, err := readManifest(m.Own)
	if err != nil {
		return nil, err
	}
	peer, err := readManifest(m.Peer)
	if err != nil {
		return nil, err
	}
	reg, state, err := g.state(ctx)
	if err != nil {
		return nil, err
	}
	if err := active(reg, peer); err != nil {
		return nil, err
	}
	if err := later(own, peer); err != nil {
		return nil, err
	}
	// Which version this is, its own measurements say: a manifest that the
	// host brings must be the one that they meet, and listed.
	doc, err := g.Evidence(ctx, a.Taker)
	if err != nil {
		return nil, err
	}
	self, err := g.appraise(ctx, doc, m.OwnCollateral, own, state, a.Taker)
	if err != nil {
		return nil, err
	}
	if !self.Accepted {
		return nil, fault.New(fault.ExitRefused, CodeSelf, "bring this machine's own manifest, and its collateral", "appraising this enclave itself: %w", self.Err())
	}
	res, err := g.peer(ctx, a.Evidence, m.PeerCollateral, peer, state, req.Challenge)
	if err != nil {
		return nil, err
	}
	if res.TrustClass != self.TrustClass {
		return nil, fault.Mismatch(fault.ExitRefused, CodeClass, "the new enclave's trust class", self.TrustClass, res.TrustClass, "upgrade on a machine of the same kind")
	}
	out := grant{Format: Format, Evidence: doc}
	h := envelope.Holder{Purpose: envelope.PurposeHandover, Challenge: req.Challenge, Result: res, Now: g.now()}
	if out.Envelope, err = h.Seal(a.Request, key, bound(a.Disk, res.Claims.ConfigSHA256)); err != nil {
		return nil, err
	}
	out.Signature = ed25519.Sign(g.Receipt, signed(askDoc, doc, out.Envelope))
	return encode(out)
}
