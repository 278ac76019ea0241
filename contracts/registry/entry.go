package registry

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Entry is one change of an order. String says what it does, for those who
// are to sign it.
type Entry interface {
	fmt.Stringer
	kind() uint8
	store(b *toncell.Builder) error
	// narrows follows contracts/tolk/registry_entries.tolk: whether the entry
	// only takes trust away from the state, and so acts at once.
	narrows(s *State) bool
}

// The entries.
type (
	// ManifestEntry lists a manifest or changes its state.
	ManifestEntry struct {
		SHA256     [32]byte
		State      ManifestState
		GraceUntil time.Time // only with Grace
	}
	// ModelEntry lists or retires a model.
	ModelEntry struct {
		Root, NameHash [32]byte
		Active         bool
	}
	// PolicyEntry accepts or drops a policy hash.
	PolicyEntry struct {
		SHA256   [32]byte
		Accepted bool
	}
	// VerifierEntry lists a verifier's key for a time, or takes it off.
	VerifierEntry struct {
		Public      ed25519.PublicKey
		From, Until time.Time
		Listed      bool
	}
	// ThresholdEntry sets k.
	ThresholdEntry struct{ K uint8 }
	// PausedEntry stops or resumes releases; vouchers, refunds and closing go
	// on.
	PausedEntry struct{ Paused bool }
	// GatewayEntry lists a gateway, or takes it off: Gateway is nil.
	GatewayEntry struct {
		ID      [32]byte
		Gateway *Gateway
	}
	// CheckpointEntry sets a log's checkpoint; Size 0 forgets the log.
	CheckpointEntry struct {
		Origin [32]byte
		Size   uint64
		Root   [32]byte
	}
	// ParametersEntry sets all parameters.
	ParametersEntry struct{ Parameters }
	// OwnersEntry replaces the owners.
	OwnersEntry struct{ Owners }
	// UpgradeEntry replaces the code, which takes the data over. It comes
	// alone.
	UpgradeEntry struct{ Code *cell.Cell }
	// WithdrawEntry takes nanoton out of what is not the verifiers'.
	WithdrawEntry struct {
		To     toncell.Address
		Amount uint64
	}
)

func (e ManifestEntry) kind() uint8   { return 1 }
func (e ModelEntry) kind() uint8      { return 2 }
func (e PolicyEntry) kind() uint8     { return 3 }
func (e VerifierEntry) kind() uint8   { return 4 }
func (e ThresholdEntry) kind() uint8  { return 5 }
func (e PausedEntry) kind() uint8     { return 6 }
func (e GatewayEntry) kind() uint8    { return 7 }
func (e CheckpointEntry) kind() uint8 { return 8 }
func (e ParametersEntry) kind() uint8 { return 9 }
func (e OwnersEntry) kind() uint8     { return 10 }
func (e UpgradeEntry) kind() uint8    { return 11 }
func (e WithdrawEntry) kind() uint8   { return 12 }

func (e ManifestEntry) store(b *toncell.Builder) error {
	b.Bits256(e.SHA256).Uint(uint64(e.State), 8).Uint(unix(e.GraceUntil), 32)
	return nil
}

func (e ModelEntry) store(b *toncell.Builder) error {
	b.Bits256(e.Root).Bits256(e.NameHash).Bool(e.Active)
	return nil
}

func (e PolicyEntry) store(b *toncell.Builder) error {
	b.Bits256(e.SHA256).Bool(e.Accepted)
	return nil
}

func (e VerifierEntry) store(b *toncell.Builder) error {
	if len(e.Public) != ed25519.PublicKeySize {
		return fmt.Errorf("verifier key of %d bytes", len(e.Public))
	}
	b.Bytes(e.Public).Uint(unix(e.From), 32).Uint(unix(e.Until), 32).Bool(e.Listed)
	return nil
}

func (e ThresholdEntry) store(b *toncell.Builder) error {
	b.Uint(uint64(e.K), 8)
	return nil
}

func (e PausedEntry) store(b *toncell.Builder) error {
	b.Bool(e.Paused)
	return nil
}

func (e GatewayEntry) store(b *toncell.Builder) error {
	b.Bits256(e.ID).Bool(e.Gateway != nil)
	if e.Gateway != nil {
		e.Gateway.store(b)
	}
	return nil
}

func (e CheckpointEntry) store(b *toncell.Builder) error {
	b.Bits256(e.Origin).Uint(e.Size, 64).Bits256(e.Root)
	return nil
}

func (e ParametersEntry) store(b *toncell.Builder) error {
	b.Uint(uint64(e.TrustClasses), 32).Uint(seconds(e.Freshness), 16).Uint(uint64(e.FeeCapBps), 16).Coins(e.VerifierFee)
	e.cold(b)
	return nil
}

func (e OwnersEntry) store(b *toncell.Builder) error {
	d, err := e.dict()
	if err != nil {
		return err
	}
	b.Uint(uint64(e.Threshold), 8).Uint(uint64(e.Veto), 8).Uint(uint64(e.Final), 8).Uint(seconds(e.Delay), 32).Dict(d)
	return nil
}

func (e UpgradeEntry) store(b *toncell.Builder) error {
	b.Ref(e.Code)
	return nil
}

func (e WithdrawEntry) store(b *toncell.Builder) error {
	b.Addr(e.To).Coins(e.Amount)
	return nil
}

// readEntry reads the kind and its fields.
func readEntry(r *toncell.Reader) (Entry, error) {
	switch kind := r.Uint(8); kind {
	case 1:
		return ManifestEntry{SHA256: r.Bits256(), State: ManifestState(r.Uint(8)), GraceUntil: timeOf(r.Uint(32))}, nil
	case 2:
		return ModelEntry{Root: r.Bits256(), NameHash: r.Bits256(), Active: r.Bool()}, nil
	case 3:
		return PolicyEntry{SHA256: r.Bits256(), Accepted: r.Bool()}, nil
	case 4:
		return VerifierEntry{Public: r.Bytes(32), From: timeOf(r.Uint(32)), Until: timeOf(r.Uint(32)), Listed: r.Bool()}, nil
	case 5:
		return ThresholdEntry{K: uint8(r.Uint(8))}, nil
	case 6:
		return PausedEntry{Paused: r.Bool()}, nil
	case 7:
		e := GatewayEntry{ID: r.Bits256()}
		if r.Bool() {
			g := readGateway(r)
			e.Gateway = &g
		}
		return e, nil
	case 8:
		return CheckpointEntry{Origin: r.Bits256(), Size: r.Uint(64), Root: r.Bits256()}, nil
	case 9:
		e := ParametersEntry{}
		e.TrustClasses, e.Freshness = uint32(r.Uint(32)), time.Duration(r.Uint(16))*time.Second
		e.FeeCapBps, e.VerifierFee = uint16(r.Uint(16)), r.Coins()
		e.readCold(r)
		return e, nil
	case 10:
		e := OwnersEntry{Owners{Threshold: uint8(r.Uint(8)), Veto: uint8(r.Uint(8)), Final: uint8(r.Uint(8)), Keys: map[uint8]ed25519.PublicKey{}}}
		e.Delay = time.Duration(r.Uint(32)) * time.Second
		readKeys(r, &e.Owners)
		return e, nil
	case 11:
		return UpgradeEntry{Code: r.Ref()}, nil
	case 12:
		return WithdrawEntry{To: r.Addr(), Amount: r.Coins()}, nil
	default:
		return nil, errors.Join(r.Err(), fmt.Errorf("unknown kind of entry %d", kind))
	}
}

// Narrows reports whether every entry only takes trust away from the state:
// such an order may act at once.
func (o *Order) Narrows(s *State) bool {
	for _, e := range o.Entries {
		if !e.narrows(s) {
			return false
		}
	}
	return true
}

func (e ManifestEntry) narrows(s *State) bool {
	was, ok := s.Manifests[e.SHA256]
	switch e.State {
	case Revoked:
		return true
	case Grace:
		return ok && (was.State == Active || was.State == Grace && !e.GraceUntil.After(was.GraceUntil))
	}
	return false
}

func (e ModelEntry) narrows(*State) bool  { return !e.Active }
func (e PolicyEntry) narrows(*State) bool { return !e.Accepted }

func (e VerifierEntry) narrows(s *State) bool {
	was, ok := s.Verifiers[verdictcell.KeyID(e.Public)]
	return !e.Listed || ok && was.Listed && unix(e.From) >= unix(was.From) && unix(e.Until) <= unix(was.Until)
}

func (e ThresholdEntry) narrows(s *State) bool { return e.K >= s.Threshold }
func (e PausedEntry) narrows(*State) bool      { return e.Paused }
func (e GatewayEntry) narrows(*State) bool     { return e.Gateway == nil }

func (e CheckpointEntry) narrows(s *State) bool {
	_, ok := s.Checkpoints[e.Origin]
	return ok && e.Size > 0
}

func (e ParametersEntry) narrows(s *State) bool {
	return e.TrustClasses&^s.TrustClasses == 0 && e.Freshness <= s.Freshness && e.FeeCapBps <= s.FeeCapBps &&
		e.VerifierFee <= s.VerifierFee && e.MinBond >= s.MinBond && e.MinCloseDelay >= s.MinCloseDelay &&
		e.MinWorkerStake >= s.MinWorkerStake && e.UnbondDelay >= s.UnbondDelay
}

func (e OwnersEntry) narrows(*State) bool   { return false }
func (e UpgradeEntry) narrows(*State) bool  { return false }
func (e WithdrawEntry) narrows(*State) bool { return false }

// String names the manifest and its state.
func (e ManifestEntry) String() string {
	if e.State == Grace {
		return fmt.Sprintf("manifest %x: grace until %s", e.SHA256, e.GraceUntil.Format(time.RFC3339))
	}
	return fmt.Sprintf("manifest %x: %s", e.SHA256, e.State)
}

// String names the model's root and its name's hash.
func (e ModelEntry) String() string {
	if !e.Active {
		return fmt.Sprintf("model %x: retired", e.Root)
	}
	return fmt.Sprintf("model %x: active, name's SHA-256 %x", e.Root, e.NameHash)
}

// String names the policy and whether it is accepted.
func (e PolicyEntry) String() string {
	if !e.Accepted {
		return fmt.Sprintf("policy %x: dropped", e.SHA256)
	}
	return fmt.Sprintf("policy %x: accepted", e.SHA256)
}

// String names the verifier's key and its time.
func (e VerifierEntry) String() string {
	if !e.Listed {
		return fmt.Sprintf("verifier %x: removed", []byte(e.Public))
	}
	return fmt.Sprintf("verifier %x: listed from %s until %s", []byte(e.Public), span(e.From), span(e.Until))
}

func span(t time.Time) string {
	if t.IsZero() || t.Equal(Forever) {
		return "ever"
	}
	return t.Format(time.RFC3339)
}

// String says how many verifiers a verdict needs.
func (e ThresholdEntry) String() string {
	return fmt.Sprintf("verifiers that a verdict needs: %d", e.K)
}

// String says whether releases stop.
func (e PausedEntry) String() string {
	if e.Paused {
		return "pause: nothing is released"
	}
	return "resume releases"
}

// String names the gateway, its endpoint and its payout.
func (e GatewayEntry) String() string {
	if e.Gateway == nil {
		return fmt.Sprintf("gateway %x: removed", e.ID)
	}
	return fmt.Sprintf("gateway %x: %q, paid at %s", e.ID, e.Gateway.Endpoint, e.Gateway.Payout)
}

// String names the log, its size and its root.
func (e CheckpointEntry) String() string {
	if e.Size == 0 {
		return fmt.Sprintf("log %x: forgotten", e.Origin)
	}
	return fmt.Sprintf("log %x: size %d, root %x", e.Origin, e.Size, e.Root)
}

// String lists every parameter with its unit.
func (p Parameters) String() string {
	var classes []string
	for _, c := range verdictcell.Classes(p.TrustClasses) {
		classes = append(classes, c.String())
	}
	return fmt.Sprintf("trust classes %s; signatures of at most %s; gateway fee at most %d basis points; verifiers' fee %d nanoton; "+
		"closing delay at least %s; worker stake at least %d nanoton; bond at least %d nanoton, back after %s",
		strings.Join(classes, ", "), p.Freshness, p.FeeCapBps, p.VerifierFee, p.MinCloseDelay, p.MinWorkerStake, p.MinBond, p.UnbondDelay)
}

// String lists the parameters.
func (e ParametersEntry) String() string { return "parameters: " + e.Parameters.String() }

// String lists the owners and what each step needs of them.
func (e OwnersEntry) String() string {
	var keys []string
	for i := range uint8(MaxOwners) {
		if k, ok := e.Keys[i]; ok {
			keys = append(keys, fmt.Sprintf("%d: %x", i, []byte(k)))
		}
	}
	return fmt.Sprintf("owners: %d of %s; veto by %d; final with %d; time lock %s", e.Threshold, strings.Join(keys, ", "), e.Veto, e.Final, e.Delay)
}

// String names the new code's hash.
func (e UpgradeEntry) String() string {
	if e.Code == nil {
		return "upgrade: no code"
	}
	return fmt.Sprintf("upgrade to code %x", e.Code.Hash())
}

// String says how much goes to whom.
func (e WithdrawEntry) String() string {
	return fmt.Sprintf("withdraw %d nanoton to %s", e.Amount, e.To)
}
