// Package handover moves a data disk's key from one enclave to the next: from
// the one that runs the old image to one that runs a newer, so that sealed data
// outlives an upgrade. Each side appraises the other's fresh evidence by
// itself, against the registry's fresh proven state; the host between them
// carries bytes, and may lose, change, delay or replay them.
//
//	taker  hello  its challenge
//	giver  offer  its challenge, the disk
//	taker  ask    evidence for the giver's challenge, a key made for it (package envelope)
//	giver  grant  the disk's key for that key, evidence for the taker's challenge, signed
//
// The giver gives to nobody but an accepted enclave of the same owner and
// config, of the same trust class, whose manifest is active and a later version
// of its own image. The taker takes from nobody but an accepted enclave of the
// same owner and config and an earlier version that is not revoked: a key from
// the host would open the disk to the host.
//
// Nothing is lost where it ends early. The giver's sealed key stays on the disk
// until the taker has written its own beside it, and either opens the disk.
package handover

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// Format names this version of the exchange.
const Format = "cocoon-handover/1"

// Limits.
const (
	MaxMessage    = evidence.MaxEvidence + evidence.MaxEvidence/2 // evidence in base64, and a little
	MaxChallenges = 16                                            // that are open at a time
	ChallengeLife = 5 * time.Minute
	// MaxStateAge is how old the block may be that proves the registry's state.
	MaxStateAge = 2 * time.Minute
)

// Codes of refusals.
const (
	CodeMessage   = "handover.message"   // a message does not parse
	CodeChallenge = "handover.challenge" // not ours, too old, or used before: a replay
	CodeDisk      = "handover.disk"      // another data disk
	CodeStale     = "handover.stale"     // the registry's state is old
	CodeNetwork   = "handover.network"   // it is another network's
	CodeManifest  = "handover.manifest"  // not active in the registry: revoked, in grace, or not listed
	CodeVersion   = "handover.version"   // not a later version of the same image
	CodeEvidence  = "handover.evidence"  // the other enclave is not accepted: debug, TCB, another image …
	CodeSelf      = "handover.self"      // this enclave's own evidence does not meet its manifest
	CodeClass     = "handover.class"     // another trust class, or one that hands nothing over
	CodeConfig    = "handover.config"    // another config
	CodeOwner     = "handover.owner"     // another payout address
	CodeSignature = "handover.signature" // the grant is not the attested giver's
	CodeNoLedger  = "handover.no_registry"
	CodeNoChain   = "handover.no_init_block" // the config leaves it to the host which chain is believed
)

// hello opens an exchange.
type hello struct {
	Format    string        `json:"format"`
	Challenge digest.SHA256 `json:"challenge"`
}

// offer answers it.
type offer struct {
	Format    string        `json:"format"`
	Challenge digest.SHA256 `json:"challenge"`
	Disk      digest.SHA256 `json:"disk"` // DiskID
}

// ask is the taker's.
type ask struct {
	Format   string        `json:"format"`
	Taker    digest.SHA256 `json:"taker"` // the hello's challenge
	Disk     digest.SHA256 `json:"disk"`
	Evidence []byte        `json:"evidence"` // document, for the giver's challenge
	Request  []byte        `json:"request"`  // of package envelope
}

// grant is the giver's.
type grant struct {
	Format    string `json:"format"`
	Envelope  []byte `json:"envelope"`
	Evidence  []byte `json:"evidence"`  // document, for the taker's challenge
	Signature []byte `json:"signature"` // Ed25519 by the giver's receipt key over signed()
}

// signed is what ties a grant to the giver's evidence, the ask and the envelope.
func signed(askDoc, doc, envelope []byte) []byte {
	a, e, v := digest.Sum256(askDoc), digest.Sum256(doc), digest.Sum256(envelope)
	msg := append([]byte("cocoon-handover-grant-v1\x00"), a[:]...)
	return append(append(msg, e[:]...), v[:]...)
}

// bound is what the envelope is bound to beside the request: the disk and the
// config.
func bound(disk, config digest.SHA256) []byte {
	out := append([]byte("cocoon-handover-key-v1\x00"), disk[:]...)
	return append(out, config[:]...)
}

// DiskID names a disk by its key, without telling the key: it is the host's to
// know, and no other disk has it.
func DiskID(key []byte) digest.SHA256 {
	return digest.Sum256(append([]byte("cocoon-data-disk-id-v1\x00"), key...))
}

// Material is what the host brings for one exchange. All of it is signed or
// named by a hash elsewhere.
type Material struct {
	Own, Peer      []byte          // manifests of this image and of the other's, DSSE envelopes
	OwnCollateral  json.RawMessage // what a verifier needs beside this enclave's evidence, or empty
	PeerCollateral json.RawMessage // the same for the other's
}

// encode writes a message.
func encode(v any) ([]byte, error) {
	b, err := jcs.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding message: %w", err)
	}
	return b, nil
}

// decode reads a message; format points to its format.
func decode(b []byte, v any, format *string) error {
	err := jcs.DecodeCanonical(b, MaxMessage, v)
	if err == nil && *format != Format {
		err = fmt.Errorf("format %.32q, want %s", *format, Format)
	}
	if err != nil {
		return fault.New(fault.ExitParse, CodeMessage, "use releases that know the same hand-over on both sides", "reading message: %w", err)
	}
	return nil
}

// verify checks a grant's signature.
func (g *grant) verify(key digest.SHA256, askDoc []byte) error {
	if len(g.Signature) != ed25519.SignatureSize || !ed25519.Verify(key[:], signed(askDoc, g.Evidence, g.Envelope), g.Signature) {
		return fault.New(fault.ExitRefused, CodeSignature, "begin the hand-over anew", "reading the grant: the attested giver did not sign it for this ask")
	}
	return nil
}
