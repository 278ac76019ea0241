package main

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// changeHelp is the list of changes that an order is made of.
const changeHelp = `Changes:
  manifest=HASH                      list a manifest; HASH,revoked revokes it,
                                     HASH,grace,TIME lets renewals use it until then
  model=ROOT,NAME                    list a model; ROOT,retired retires it
  policy=HASH                        accept a policy; HASH,dropped drops it
  verifier=KEY                       list a verifier's key; KEY,FROM,UNTIL for a time,
                                     KEY,removed takes it off
  threshold=K                        verifiers that a verdict needs
  pause, resume                      stop or resume releases
  gateway=HOST:PORT,ADDRESS          list a gateway; HOST:PORT,removed takes it off
  log=ORIGIN,SIZE,ROOT               set a log's checkpoint; ORIGIN,forgotten
  set=NAME,VALUE                     a parameter: trust-classes (tdx+snp), freshness,
                                     fee-cap-bps, verifier-fee, min-close-delay,
                                     min-worker-stake, min-bond, unbond-delay
  owners=THRESHOLD,KEY,…             replace the owners
  veto=N, final=N, delay=TIME        their other rules
  upgrade=FILE                       replace the code by a bag of cells
  withdraw=ADDRESS,TON               take out what is not the verifiers'`

// orderParser makes an order's entries of the command line, given what the
// registry says now. Parameters, and owners, become one entry each.
type orderParser struct {
	state      *registry.State
	entries    []registry.Entry
	parameters *registry.Parameters
	owners     *registry.Owners
}

func parseEntries(s *registry.State, args []string) ([]registry.Entry, error) {
	p := &orderParser{state: s}
	for _, arg := range args {
		if err := p.add(arg); err != nil {
			return nil, fault.New(fault.ExitInternal, "usage", "see cocoon registry propose --help", "reading change %q: %w", arg, err)
		}
	}
	if p.parameters != nil {
		p.entries = append(p.entries, registry.ParametersEntry{Parameters: *p.parameters})
	}
	if p.owners != nil {
		if err := p.owners.Check(); err != nil {
			return nil, err
		}
		// They come first in an order.
		p.entries = append([]registry.Entry{registry.OwnersEntry{Owners: *p.owners}}, p.entries...)
	}
	return p.entries, nil
}

func (p *orderParser) add(arg string) error {
	kind, rest, _ := strings.Cut(arg, "=")
	f := strings.Split(rest, ",")
	switch kind {
	case "threshold":
		k, err := strconv.ParseUint(rest, 10, 8)
		p.entries = append(p.entries, registry.ThresholdEntry{K: uint8(k)})
		return err
	case "pause", "resume":
		if rest != "" {
			return fmt.Errorf("%s has no value", kind)
		}
		p.entries = append(p.entries, registry.PausedEntry{Paused: kind == "pause"})
		return nil
	case "set":
		return p.set(f)
	case "owners", "veto", "final", "delay":
		return p.owner(kind, f)
	}
	e, err := parseEntry(kind, f)
	p.entries = append(p.entries, e)
	return err
}

func parseEntry(kind string, f []string) (registry.Entry, error) {
	switch kind {
	case "manifest":
		h, err := hexbytes.ParseHash(f[0])
		if err != nil {
			return nil, err
		}
		switch {
		case len(f) == 1:
			return registry.ManifestEntry{SHA256: h, State: registry.Active}, nil
		case len(f) == 2 && f[1] == "revoked":
			return registry.ManifestEntry{SHA256: h, State: registry.Revoked}, nil
		case len(f) == 3 && f[1] == "grace":
			until, err := time.Parse(time.RFC3339, f[2])
			return registry.ManifestEntry{SHA256: h, State: registry.Grace, GraceUntil: until.UTC()}, err
		}
	case "model":
		h, err := hexbytes.ParseHash(f[0])
		if err != nil || len(f) != 2 {
			return nil, badFields(err)
		}
		if f[1] == "retired" {
			return registry.ModelEntry{Root: h}, nil
		}
		return registry.ModelEntry{Root: h, NameHash: sha256Of(f[1]), Active: true}, nil
	case "policy":
		h, err := hexbytes.ParseHash(f[0])
		if err != nil || len(f) > 2 || len(f) == 2 && f[1] != "dropped" {
			return nil, badFields(err)
		}
		return registry.PolicyEntry{SHA256: h, Accepted: len(f) == 1}, nil
	case "verifier":
		return parseVerifier(f)
	case "gateway":
		if len(f) != 2 || f[0] == "" || len(f[0]) > 127 {
			return nil, badFields(nil)
		}
		if f[1] == "removed" {
			return registry.GatewayEntry{ID: sha256Of(f[0])}, nil
		}
		to, err := toncell.ParseAddress(f[1])
		return registry.GatewayEntry{ID: sha256Of(f[0]), Gateway: &registry.Gateway{Payout: to, Endpoint: f[0]}}, err
	case "log":
		return parseCheckpoint(f)
	case "upgrade":
		return parseUpgrade(strings.Join(f, ","))
	case "withdraw":
		if len(f) != 2 {
			return nil, badFields(nil)
		}
		to, err := toncell.ParseAddress(f[0])
		if err != nil {
			return nil, err
		}
		amount, err := coin.Parse(f[1])
		return registry.WithdrawEntry{To: to, Amount: uint64(amount)}, err
	}
	return nil, badFields(nil)
}

func badFields(err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("no such change")
}

func parseVerifier(f []string) (registry.Entry, error) {
	k, err := hexbytes.ParseHash(f[0])
	if err != nil {
		return nil, err
	}
	e := registry.VerifierEntry{Public: ed25519.PublicKey(k[:]), Until: registry.Forever, Listed: true}
	switch {
	case len(f) == 1:
		return e, nil
	case len(f) == 2 && f[1] == "removed":
		return registry.VerifierEntry{Public: e.Public}, nil
	case len(f) == 3:
		if e.From, err = time.Parse(time.RFC3339, f[1]); err != nil {
			return nil, err
		}
		e.Until, err = time.Parse(time.RFC3339, f[2])
		e.From, e.Until = e.From.UTC(), e.Until.UTC()
		return e, err
	}
	return nil, badFields(nil)
}

func parseCheckpoint(f []string) (registry.Entry, error) {
	if len(f) == 2 && f[1] == "forgotten" {
		return registry.CheckpointEntry{Origin: sha256Of(f[0])}, nil
	}
	if len(f) != 3 {
		return nil, badFields(nil)
	}
	size, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return nil, err
	}
	root, err := hexbytes.ParseHash(f[2])
	return registry.CheckpointEntry{Origin: sha256Of(f[0]), Size: size, Root: root}, err
}

func parseUpgrade(path string) (registry.Entry, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading code: %w", err)
	}
	code, err := toncell.ParseBOC(b, toncell.Limits{Bytes: 64 << 10, Cells: 2048, Depth: 256})
	return registry.UpgradeEntry{Code: code}, err
}

// set changes one parameter of those that the registry has.
func (p *orderParser) set(f []string) error {
	if len(f) != 2 {
		return badFields(nil)
	}
	if p.parameters == nil {
		now := p.state.Parameters
		p.parameters = &now
	}
	durations := map[string]*time.Duration{
		"freshness": &p.parameters.Freshness, "min-close-delay": &p.parameters.MinCloseDelay,
		"unbond-delay": &p.parameters.UnbondDelay,
	}
	coins := map[string]*uint64{"verifier-fee": &p.parameters.VerifierFee, "min-worker-stake": &p.parameters.MinWorkerStake, "min-bond": &p.parameters.MinBond}
	var err error
	switch name := f[0]; {
	case durations[name] != nil:
		*durations[name], err = time.ParseDuration(f[1])
	case coins[name] != nil:
		var v coin.Nano
		v, err = coin.Parse(f[1])
		*coins[name] = uint64(v)
	case name == "fee-cap-bps":
		var v uint64
		v, err = strconv.ParseUint(f[1], 10, 16)
		p.parameters.FeeCapBps = uint16(v)
	case name == "trust-classes":
		p.parameters.TrustClasses = 0
		for _, c := range strings.Split(f[1], "+") {
			class, err := verdictcell.ParseTrustClass(c)
			if err != nil {
				return err
			}
			p.parameters.TrustClasses |= class.Bit()
		}
	default:
		return badFields(nil)
	}
	return err
}

// owner changes who may change the registry.
func (p *orderParser) owner(kind string, f []string) error {
	if p.owners == nil {
		now := p.state.Owners
		p.owners = &now
	}
	if kind == "delay" {
		var err error
		p.owners.Delay, err = time.ParseDuration(f[0])
		return err
	}
	n, err := strconv.ParseUint(f[0], 10, 8)
	if err != nil {
		return err
	}
	switch kind {
	case "veto":
		p.owners.Veto = uint8(n)
	case "final":
		p.owners.Final = uint8(n)
	default:
		p.owners.Threshold, p.owners.Keys = uint8(n), map[uint8]ed25519.PublicKey{}
		if len(f)-1 > registry.MaxOwners {
			return fmt.Errorf("%d owners, at most %d", len(f)-1, registry.MaxOwners)
		}
		for i, text := range slices.Clone(f[1:]) {
			k, err := hexbytes.ParseHash(text)
			if err != nil {
				return err
			}
			p.owners.Keys[uint8(i)] = k[:]
		}
	}
	return nil
}
