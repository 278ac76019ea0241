package handover

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/registrysource"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/builtin"
	"cocoon/verifier/result"
)

// Party is one side: an enclave and what it judges another by.
type Party struct {
	Config  *evidence.Config // as measured
	Payout  string           // as in the claims
	Receipt ed25519.PrivateKey
	// Evidence returns this enclave's evidence document for a challenge.
	Evidence func(ctx context.Context, challenge digest.SHA256) ([]byte, error)
	// Registry reads the registry of the config, proven from the config's init
	// block on.
	Registry func(ctx context.Context) (*registry.State, *chain.State, error)
	// CPUs and GPUs appraise; Policy is what they appraise by, nil: the built-in
	// policy of production under the config's registry.
	CPUs   map[string]appraise.CPU
	GPUs   appraise.GPU
	Policy *policy.Policy
	Clock  func() time.Time // nil: time.Now
}

func (p *Party) now() time.Time {
	if p.Clock == nil {
		return time.Now()
	}
	return p.Clock()
}

// state reads the registry and refuses what is old or another network's.
func (p *Party) state(ctx context.Context) (*registry.State, *appraise.Registry, error) {
	if p.Config.Registry == "" {
		return nil, nil, fault.New(fault.ExitNotReady, CodeNoLedger, "name a registry in the config", "handing over: without a registry nobody says which images are good")
	}
	// The network's config is the host's. On a chain of its own making any
	// manifest is active at the registry's address, so the chain must be the one
	// that was measured (DESIGN section 2: nothing unmeasured decides anything).
	if p.Config.InitBlock == nil {
		return nil, nil, fault.New(fault.ExitNotReady, CodeNoChain, "name a key block of the chain in the config: init_block", "handing over: the config leaves it to the host which chain the registry is read from")
	}
	reg, st, err := p.Registry(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the registry: %w", err)
	}
	if st.GlobalID != p.Config.NetworkID {
		return nil, nil, fault.Mismatch(fault.ExitRefused, CodeNetwork, "the TON network", fmt.Sprint(p.Config.NetworkID), fmt.Sprint(st.GlobalID),
			"give the machine the lite-servers of its config's network")
	}
	at, now := time.Unix(int64(st.Utime), 0), p.now()
	if age := now.Sub(at); age > MaxStateAge || age < -MaxStateAge {
		return nil, nil, fault.Mismatch(fault.ExitRefused, CodeStale, "the time of the registry's state", fmt.Sprintf("within %s of %s", MaxStateAge, now.UTC().Format(time.RFC3339)),
			at.UTC().Format(time.RFC3339), "use a lite-server that is in step with the network, and set the host's clock")
	}
	return reg, registrysource.State(p.Config.Registry, reg, st), nil
}

// policy is the policy for one appraisal. It always names the config's
// registry, which then has to list manifest and model.
func (p *Party) policy() (*policy.Policy, error) {
	r := &policy.Registry{Address: p.Config.Registry, NetworkID: p.Config.NetworkID, MaxAgeSeconds: int64(MaxStateAge / time.Second)}
	if p.Policy == nil {
		return builtin.New(policy.Production, builtin.Site{Registry: r, CPUOnly: p.Config.GPUs.Count == 0})
	}
	out := *p.Policy
	out.Manifests.Registry = r
	return &out, nil
}

// appraise holds evidence against one manifest. challenge must be in it.
func (p *Party) appraise(ctx context.Context, doc []byte, collateral json.RawMessage, m *manifest.Verified, reg *appraise.Registry, challenge digest.SHA256) (*result.Result, error) {
	ev, hash, err := evidence.ParseHashed(doc)
	if err != nil {
		return nil, fault.New(fault.ExitParse, CodeMessage, "use releases that know the same evidence on both sides", "reading evidence: %w", err)
	}
	if len(collateral) > 0 {
		ev.Collateral = collateral // of Intel's or AMD's making; nothing that is claimed
	}
	pol, err := p.policy()
	if err != nil {
		return nil, err
	}
	o := appraise.Prepare(ctx, ev, appraise.Options{Policy: pol, EvidenceSHA256: hash, Manifests: []*manifest.Verified{m}, Registry: reg, Now: p.now(),
		Challenges: []digest.SHA256{challenge}, RequireChallenge: true, CPUs: p.CPUs, GPUs: p.GPUs})
	return appraise.Appraise(ev, &o), nil
}

// peer decides about the other enclave: the one place for what both sides
// demand of each other. It returns the appraisal.
func (p *Party) peer(ctx context.Context, doc []byte, collateral json.RawMessage, m *manifest.Verified, reg *appraise.Registry, challenge digest.SHA256) (*result.Result, error) {
	res, err := p.appraise(ctx, doc, collateral, m, reg, challenge)
	if err != nil {
		return nil, err
	}
	if !res.Accepted {
		return nil, fault.New(fault.ExitRefused, CodeEvidence, "see the failed checks", "appraising the other enclave: %w", res.Err())
	}
	// A software TPM's memory is its host's: what is sealed there never was a
	// secret, and nothing of it may pass to a machine that has some.
	if res.TrustClass == policy.ClassVTPM {
		return nil, fault.New(fault.ExitPolicy, CodeClass, "begin with an empty data disk", "appraising the other enclave: machines of class %s hand nothing over", res.TrustClass)
	}
	config, err := p.Config.Hash()
	if err != nil {
		return nil, err
	}
	if res.Claims.ConfigSHA256 != config {
		return nil, fault.Mismatch(fault.ExitRefused, CodeConfig, "the other enclave's config", config.String(), res.Claims.ConfigSHA256.String(), "start both machines with one config.json")
	}
	if res.Claims.Payout != p.Payout {
		return nil, fault.Mismatch(fault.ExitRefused, CodeOwner, "the other enclave's payout address", fmt.Sprintf("%q", p.Payout), fmt.Sprintf("%.128q", res.Claims.Payout),
			"start both machines with one payout address")
	}
	return res, nil
}

// later checks that to is a later version of from's image.
func later(from, to *manifest.Verified) error {
	a, b := from.Manifest.Image, to.Manifest.Image
	if a.Name != b.Name || b.Version <= a.Version {
		return fault.Mismatch(fault.ExitRefused, CodeVersion, "the new image", fmt.Sprintf("%s after version %d", a.Name, a.Version), fmt.Sprintf("%.64s version %d", b.Name, b.Version),
			"upgrade to a later version of the same image; there is no way back with data")
	}
	return nil
}

// readManifest reads an envelope. Its hash is what the registry lists; who
// signed it does not count.
func readManifest(env []byte) (*manifest.Verified, error) {
	m, err := manifest.Read(env, nil)
	if err != nil {
		return nil, fault.New(fault.ExitParse, CodeMessage, "give the manifests as they were published", "reading manifest: %w", err)
	}
	return m, nil
}

// active demands a manifest in force without an end.
func active(reg *registry.State, m *manifest.Verified) error {
	got := reg.Manifests[m.SHA256].State
	if _, listed := reg.Manifests[m.SHA256]; !listed || got != registry.Active {
		return fault.Mismatch(fault.ExitRefused, CodeManifest, "the new image's manifest in the registry", "active", stateText(reg, m), "upgrade to an image whose manifest is active")
	}
	return nil
}

func stateText(reg *registry.State, m *manifest.Verified) string {
	e, listed := reg.Manifests[m.SHA256]
	switch {
	case !listed:
		return "not listed"
	case e.State == registry.Active:
		return "active"
	case e.State == registry.Grace:
		return "in grace"
	}
	return "revoked"
}
