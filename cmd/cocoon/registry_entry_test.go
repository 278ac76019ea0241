package main

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/contracts/registry"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

func TestChangesOfTheCommandLine(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	var h [32]byte
	for i := range h {
		h[i] = 0xab
	}
	addr := toncell.Address{Hash: h}
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	s := registry.New(registry.NewOwners(1, h[:]), true)
	parameters := s.Parameters
	parameters.Freshness, parameters.FeeCapBps, parameters.MinBond = 10*time.Minute, 7, 2_500_000_000
	parameters.TrustClasses = verdictcell.TDX.Bit() | verdictcell.SNP.Bit()
	owners := registry.Owners{Threshold: 1, Veto: 1, Final: 2, Delay: time.Hour, Keys: map[uint8]ed25519.PublicKey{0: h[:], 1: h[:]}}
	got, err := parseEntries(s, []string{
		"manifest=" + hash, "manifest=" + hash + ",revoked", "manifest=" + hash + ",grace,2026-12-01T00:00:00Z",
		"model=" + hash + ",small", "model=" + hash + ",retired", "policy=" + hash, "policy=" + hash + ",dropped",
		"verifier=" + hash, "verifier=" + hash + ",removed", "verifier=" + hash + ",2026-12-01T00:00:00Z,2026-12-01T00:00:00Z",
		"threshold=3", "pause", "resume", "gateway=g:443," + addr.String(), "gateway=g:443,removed",
		"log=example.org/log,9," + hash, "log=example.org/log,forgotten", "withdraw=" + addr.String() + ",1.5",
		"set=freshness,10m", "set=fee-cap-bps,7", "set=min-bond,2.5", "set=trust-classes,tdx+snp",
		"owners=1," + hash + "," + hash, "final=2", "delay=1h",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []registry.Entry{
		registry.OwnersEntry{Owners: owners}, registry.ManifestEntry{SHA256: h, State: registry.Active}, registry.ManifestEntry{SHA256: h, State: registry.Revoked},
		registry.ManifestEntry{SHA256: h, State: registry.Grace, GraceUntil: at},
		registry.ModelEntry{Root: h, NameHash: sha256Of("small"), Active: true}, registry.ModelEntry{Root: h},
		registry.PolicyEntry{SHA256: h, Accepted: true}, registry.PolicyEntry{SHA256: h},
		registry.VerifierEntry{Public: h[:], Until: registry.Forever, Listed: true}, registry.VerifierEntry{Public: h[:]},
		registry.VerifierEntry{Public: h[:], From: at, Until: at, Listed: true},
		registry.ThresholdEntry{K: 3}, registry.PausedEntry{Paused: true}, registry.PausedEntry{},
		registry.GatewayEntry{ID: sha256Of("g:443"), Gateway: &registry.Gateway{Payout: addr, Endpoint: "g:443"}}, registry.GatewayEntry{ID: sha256Of("g:443")},
		registry.CheckpointEntry{Origin: sha256Of("example.org/log"), Size: 9, Root: h}, registry.CheckpointEntry{Origin: sha256Of("example.org/log")},
		registry.WithdrawEntry{To: addr, Amount: 1_500_000_000},
		registry.ParametersEntry{Parameters: parameters},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{
		"", "manifest", "manifest=" + hash + ",active,now", "manifest=" + hash + ",grace,soon", "model=" + hash, "policy=" + hash + ",x",
		"verifier=" + hash + ",x", "verifier=" + hash + ",x,y", "threshold=300", "pause=1", "gateway=g", "gateway=,removed", "gateway=g,nowhere",
		"log=o,x," + hash, "log=o,1", "withdraw=" + addr.String(), "withdraw=x,1", "withdraw=" + addr.String() + ",x",
		"set=freshness", "set=freshness,soon", "set=colour,red", "set=trust-classes,VTPM", "set=fee-cap-bps,99999", "set=min-bond,x",
		"owners=1,x", "owners=x", "veto=x", "delay=x", "upgrade=/nowhere", "final=1", "colour=red",
	} {
		if got, err := parseEntries(s, []string{bad}); err == nil {
			t.Errorf("%q was read as %v", bad, got)
		}
	}
}
