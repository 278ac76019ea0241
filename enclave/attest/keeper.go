package attest

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls"
	"cocoon/verifier/client"
	"cocoon/verifier/result"
)

// Codes of faults.
const (
	CodeNoVerdict = "verdict.absent"
	CodeRefused   = "verdict.refused"
	CodeForeign   = "verdict.foreign"
	CodeExpired   = "verdict.expired"
	CodeClock     = "clock.verifier"
)

// MaxLife bounds how long a verdict is relied on (DESIGN section 2: no
// verdict outlives one hour).
const MaxLife = time.Hour

// MaxSkew is how far the verifier's clock and the guest's may be apart.
const MaxSkew = 10 * time.Minute

// Times of renewal. A quote costs about a second of the TPM or the TEE, so
// renewals have a floor between them.
const (
	minInterval = 15 * time.Second
	maxInterval = 5 * time.Minute
)

// Current is what is in force: one evidence document and the verdict on it.
type Current struct {
	Evidence []byte // JCS of evidence.Evidence
	Hash     digest.SHA256
	EAR      string // the verdict
	Cell     string // the same for contracts, or empty without a ledger
	Status   string // EAR status, the worst of all parts
	Class    string // trust class
	Manifest digest.SHA256
	Expires  time.Time
}

// VerdictHash returns the SHA-256 of the verdict's bytes.
func (c *Current) VerdictHash() digest.SHA256 { return digest.Sum256([]byte(c.EAR)) }

// Options of a Keeper.
type Options struct {
	Collector *Collector
	Verifier  Verifier
	TLSKey    crypto.Signer
	Clock     func() time.Time
	OnChange  func(Current) // after each new verdict
	Log       *slog.Logger
}

// Keeper holds the evidence and verdict in force. It is safe for concurrent
// use.
type Keeper struct {
	opt Options

	mu   sync.Mutex
	cur  *Current // nil until a verdict came, and after a refusal
	cert *tls.Certificate
}

// NewKeeper returns a Keeper with nothing in force.
func NewKeeper(opt Options) *Keeper {
	if opt.OnChange == nil {
		opt.OnChange = func(Current) {}
	}
	return &Keeper{opt: opt}
}

// Collect asks the verifier for a challenge and returns evidence for it.
func (k *Keeper) Collect(ctx context.Context) ([]byte, error) {
	ch, err := k.opt.Verifier.Challenge(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for a challenge: %w", err)
	}
	ev, err := k.opt.Collector.Collect(ctx, []digest.SHA256{ch.Challenge})
	if err != nil {
		return nil, err
	}
	doc, err := ev.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	return doc, nil
}

// Submit sends evidence to the verifier. A positive verdict comes into force;
// a refusal takes the old one out of force and is returned with every fault.
//
// The enclave does not check the verdict's signature: what it gates here is
// only its own work. Clients and contracts check it under keys of their own.
func (k *Keeper) Submit(ctx context.Context, doc []byte) error {
	v, err := k.opt.Verifier.VerifyBytes(ctx, doc)
	if err != nil {
		if refusal(err) {
			k.drop()
		}
		return fmt.Errorf("asking for a verdict: %w", err)
	}
	now := k.opt.Clock().UTC()
	cur, err := accept(v, doc, now)
	if err != nil {
		k.drop()
		return err
	}
	cert, err := ratls.NewCertificate(k.opt.TLSKey, doc, now, cur.Expires.Sub(now))
	if err != nil {
		return fmt.Errorf("asking for a verdict: %w", err)
	}
	k.mu.Lock()
	k.cur, k.cert = cur, cert
	k.mu.Unlock()
	k.opt.OnChange(*cur)
	return nil
}

// refusal reports whether the verifier looked at the evidence and refused it,
// rather than could not be asked.
func refusal(err error) bool {
	switch fault.ExitCode(err) {
	case fault.ExitRefused, fault.ExitPolicy, fault.ExitParse:
		return true
	}
	return false
}

// accept is where a verdict is taken for this evidence.
func accept(v *client.Verdict, doc []byte, now time.Time) (*Current, error) {
	const remedy = "check the verifier, and its clock against this machine's"
	if v.Result == nil || v.EAR == "" || !v.Result.Accepted || v.Result.Manifest == nil {
		return nil, fault.New(fault.ExitRefused, CodeRefused, "see the verifier's checks", "reading verdict: it is not positive")
	}
	hash := digest.SHA256(sha256.Sum256(doc))
	if v.Result.EvidenceSHA256 != hash {
		return nil, fault.Mismatch(fault.ExitRefused, CodeForeign, "the evidence that the verdict is about",
			hash.String(), v.Result.EvidenceSHA256.String(), remedy)
	}
	issued, expires, err := times(v.EAR)
	if err != nil {
		return nil, fault.New(fault.ExitParse, CodeRefused, remedy, "reading verdict: %w", err)
	}
	// The verdict was made a moment ago. The guest's clock is the host's; with
	// a wrong one it would offer certificates that nobody accepts, or go on
	// under a verdict that is over.
	if skew := issued.Sub(now); skew > MaxSkew || skew < -MaxSkew {
		return nil, fault.Mismatch(fault.ExitNotReady, CodeClock, "this machine's clock", "within "+MaxSkew.String()+" of the verifier's, "+issued.UTC().Format(time.RFC3339),
			now.Format(time.RFC3339), "set the host's clock, which the guest reads at its boot, and restart the machine; or the verifier's")
	}
	if limit := now.Add(MaxLife); expires.After(limit) {
		expires = limit
	}
	if !v.Result.NotAfter.IsZero() && expires.After(v.Result.NotAfter) {
		expires = v.Result.NotAfter
	}
	if !expires.After(now) {
		return nil, fault.Mismatch(fault.ExitRefused, CodeExpired, "the verdict's expiry",
			"after "+now.Format(time.RFC3339), expires.UTC().Format(time.RFC3339), remedy)
	}
	var tiers []result.Status
	for _, sub := range v.Result.Submods {
		tiers = append(tiers, sub.Status)
	}
	return &Current{
		Evidence: doc, Hash: hash, EAR: v.EAR, Cell: v.Cell, Status: string(result.Worst(tiers...)), Class: v.Result.TrustClass,
		Manifest: v.Result.Manifest.SHA256, Expires: expires.UTC(),
	}, nil
}

// expiry returns the exp claim of a JWT (RFC 7519, section 4.1.4), unverified.
func times(jwt string) (issued, expires time.Time, err error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return issued, expires, errors.New("not a JWT")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return issued, expires, fmt.Errorf("decoding JWT: %w", err)
	}
	var claims struct {
		Iat int64 `json:"iat"`
		Exp int64 `json:"exp"`
	}
	if err := json.Unmarshal(b, &claims); err != nil || claims.Exp <= 0 || claims.Iat <= 0 {
		return issued, expires, errors.New("JWT has no time of issue or no expiry")
	}
	return time.Unix(claims.Iat, 0), time.Unix(claims.Exp, 0), nil
}

func (k *Keeper) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cur, k.cert = nil, nil
}

// Current returns what is in force, or a fault.
func (k *Keeper) Current() (*Current, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cur == nil {
		return nil, fault.New(fault.ExitNotReady, CodeNoVerdict, "see the boot's verdict stage", "looking for a verdict: none is in force")
	}
	if now := k.opt.Clock(); !now.Before(k.cur.Expires) {
		return nil, fault.Mismatch(fault.ExitRefused, CodeExpired, "the verdict's expiry",
			"after "+now.UTC().Format(time.RFC3339), k.cur.Expires.Format(time.RFC3339), "make the verifier reachable again")
	}
	cur := *k.cur
	return &cur, nil
}

// Document returns the evidence and the verdict in force, for
// ratls.Handler.
func (k *Keeper) Document() (ratls.Document, error) {
	cur, err := k.Current()
	if err != nil {
		return ratls.Document{}, err
	}
	return ratls.Document{Evidence: cur.Evidence, Verdict: cur.EAR, VerdictCell: cur.Cell}, nil
}

// Certificate returns the TLS certificate with the evidence in force, for
// ratls.ServerConfig.
func (k *Keeper) Certificate() (*tls.Certificate, error) {
	if _, err := k.Current(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cert, nil
}

// Run renews evidence and verdict before they expire, until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	pause := minInterval
	for {
		wait := pause
		if cur, err := k.Current(); err == nil {
			wait = max(renewIn(cur.Expires.Sub(k.opt.Clock())), pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := k.renew(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			k.opt.Log.Error("verdict not renewed", "err", err)
			pause = min(2*pause, maxInterval)
			continue
		}
		pause = minInterval
	}
}

// renewIn returns when to renew a verdict with this much life left: after two
// thirds, so that a verifier that is away for a while costs nothing.
func renewIn(left time.Duration) time.Duration { return left * 2 / 3 }

func (k *Keeper) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	doc, err := k.Collect(ctx)
	if err != nil {
		return err
	}
	return k.Submit(ctx, doc)
}
