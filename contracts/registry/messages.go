package registry

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/toncell"
)

// Opcodes of the registry.
const (
	OpCheckVerdict  = 0x43430001
	OpVerdictAnswer = 0x43430002
	OpSetVerifier   = 0x43520001
	OpSetManifest   = 0x43520002
	OpSetModel      = 0x43520003
	OpSetParameters = 0x43520004
	OpSetPaused     = 0x43520005
	OpWithdraw      = 0x43520006
	OpFund          = 0x43520007
)

// MessageValue is what an owner's message should bring, in nanoton; what its
// gas does not use comes back.
const MessageValue = 50_000_000

func body(op, queryID uint64) *toncell.Builder {
	return toncell.NewBuilder().Uint(op, 32).Uint(queryID, 64)
}

// CheckVerdict asks about a verdict cell, for a job with a gateway fee, first
// release or renewal; verifierFee nanoton of the value may be kept for the
// verifiers. The answer goes to the sender.
func CheckVerdict(queryID uint64, feeBps uint16, renewal bool, verifierFee uint64, verdict *cell.Cell) (*cell.Cell, error) {
	r := toncell.NewReader(verdict)
	common, signatures := r.Ref(), r.Ref()
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("building a question: %w", err)
	}
	return body(OpCheckVerdict, queryID).Uint(uint64(feeBps), 16).Bool(renewal).Coins(verifierFee).Ref(common).Ref(signatures).Cell()
}

// SetVerifier lists or removes a verifier's key and sets the threshold.
func SetVerifier(queryID uint64, public ed25519.PublicKey, enabled bool, threshold uint8) (*cell.Cell, error) {
	return body(OpSetVerifier, queryID).Bytes(public).Bool(enabled).Uint(uint64(threshold), 8).Cell()
}

// SetManifest sets a manifest's state; graceUntil is zero except for Grace.
func SetManifest(queryID uint64, manifest [32]byte, state ManifestState, graceUntil time.Time) (*cell.Cell, error) {
	return body(OpSetManifest, queryID).Bits256(manifest).Uint(uint64(state), 8).Uint(unix(graceUntil), 32).Cell()
}

// SetModel lists a model by its verity root.
func SetModel(queryID uint64, root [32]byte, m Model) (*cell.Cell, error) {
	return body(OpSetModel, queryID).Bits256(root).Bits256(m.NameHash).Bool(m.Active).Cell()
}

// SetParameters sets the trust classes, the fee cap and the times from s.
func SetParameters(queryID uint64, s *State) (*cell.Cell, error) {
	return body(OpSetParameters, queryID).Uint(uint64(s.TrustClasses), 32).Uint(uint64(s.FeeCapBps), 16).
		Uint(seconds(s.Freshness), 32).Uint(seconds(s.MinCloseDelay), 32).Uint(seconds(s.MaxPendingTimeout), 32).Cell()
}

// SetPaused stops or resumes releases; vouchers, refunds and closing go on.
func SetPaused(queryID uint64, paused bool) (*cell.Cell, error) {
	return body(OpSetPaused, queryID).Bool(paused).Cell()
}

// Withdraw sends amount nanoton to the owner, above the storage reserve.
func Withdraw(queryID, amount uint64) (*cell.Cell, error) {
	return body(OpWithdraw, queryID).Coins(amount).Cell()
}

// Fund leaves the message's value with the registry, for its storage. It is
// also the message that deploys.
func Fund(queryID uint64) (*cell.Cell, error) { return body(OpFund, queryID).Cell() }
