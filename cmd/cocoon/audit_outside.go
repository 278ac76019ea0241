package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cocoon/client"
	"cocoon/contracts/chain"
	"cocoon/contracts/chain/netconfig"
	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/internal/toolstree"
	"cocoon/measurements/audit"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/release"
	"cocoon/verifier/appraise"
	vclient "cocoon/verifier/client"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

// Files of a bundle that hold what was seen outside the release.
const (
	savedProof    = release.SavedDir + "/registry.proof.json"
	savedEvidence = release.SavedDir + "/evidence.json"
)

// maxProof bounds a saved proof of an account.
const maxProof = 32 << 20

// maxProofAge is how much older a saved proof may be than the time that is
// judged at: what it shows as active may have been revoked since.
const maxProofAge = time.Hour

// registryOf returns what asks the registry: the proof in a bundle, if there
// is one of about now, else the network. Either is checked from the config's
// init block on.
func (f *auditFlags) registryOf(src audit.Source, now time.Time) (func(context.Context, *manifest.Verified) (*audit.Manifests, error), error) {
	addr, err := toncell.ParseAddress(f.registry)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "registry.address", "correct the address", "reading --registry: %w", err)
	}
	config, err := readInput("--ton-config", f.ton, netconfig.MaxSize)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, v *manifest.Verified) (*audit.Manifests, error) {
		var st *chain.State
		doc, err := audit.ReadSaved(src, savedProof, maxProof)
		if err == nil {
			if st, err = chain.VerifyAccountProof(doc, config, addr.Addr()); err != nil {
				return nil, err
			}
		}
		if st == nil || now.Sub(time.Unix(int64(st.Utime), 0)) > maxProofAge {
			if doc, st, err = f.askLedger(ctx, addr); err != nil {
				return nil, err
			}
		}
		s, err := ledger.RegistryOf(st)
		if err != nil {
			return nil, err
		}
		f.saved[savedProof] = doc
		out := &audit.Manifests{Address: f.registry, NetworkID: st.GlobalID, Time: time.Unix(int64(st.Utime), 0), Models: map[digest.SHA256]bool{}}
		if m, ok := s.Manifests[v.SHA256]; ok {
			out.State = m.State.String()
			if m.State == registry.Grace {
				out.Until = m.GraceUntil
			}
		}
		for root, m := range s.Models {
			out.Models[root] = m.Active
		}
		return out, nil
	}, nil
}

func (f *auditFlags) askLedger(ctx context.Context, addr toncell.Address) (doc []byte, st *chain.State, err error) {
	c, err := chain.OpenFile(f.ton, chain.Options{})
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return c.ExportAccountProof(ctx, addr.Addr())
}

// rebuild runs "make rebuild" in this repository and reads what it compared.
func rebuild(ctx context.Context, dir string, w io.Writer) ([]audit.Compared, error) {
	root, err := toolstree.RepoRoot()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("resolving release: %w", err)
	}
	report := filepath.Join(root, "build", "rebuild.json")
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("preparing rebuild: %w", err)
	}
	cmd := exec.CommandContext(ctx, "make", "-C", root, "rebuild", "RELEASE="+dir)
	cmd.Stdout, cmd.Stderr = w, w
	run := cmd.Run()
	doc, err := os.ReadFile(report)
	if err != nil {
		if run == nil {
			run = err
		}
		return nil, fault.New(fault.ExitNotReady, "audit.rebuild", "run: sudo make rebuild RELEASE="+dir+", and read what it says", "rebuilding: %w", run)
	}
	var out []audit.Compared
	if err := json.Unmarshal(doc, &out); err != nil {
		return nil, fmt.Errorf("reading the rebuild's report: %w", err)
	}
	return out, nil
}

// machineOf returns what appraises a machine: saved evidence, a file, a worker
// behind a gateway, or a URL.
func (f *auditFlags) machineOf(src audit.Source, now time.Time) (func(context.Context, *manifest.Verified) ([]audit.Row, error), error) {
	p := &policy.Policy{Format: policy.Format, Name: "audit", Environment: policy.Production,
		TrustClasses: []string{policy.ClassTDX, policy.ClassSNP, policy.ClassAzTDX, policy.ClassAzSNP}, Freshness: policy.Freshness{VerdictSeconds: 3600}}
	if f.policy != "" {
		doc, err := readInput("--policy", f.policy, policy.MaxSize)
		if err != nil {
			return nil, err
		}
		if p, err = policy.Parse(doc); err != nil {
			return nil, fault.New(fault.ExitParse, "policy.parse", "correct the policy", "%w", err)
		}
	}
	return func(ctx context.Context, v *manifest.Verified) ([]audit.Row, error) {
		ctx, cancel := context.WithTimeout(ctx, f.timeout)
		defer cancel()
		// Whoever else the policy accepts, here it is about this manifest; what
		// the registry says has rows of its own.
		q := *p
		q.Manifests = policy.Manifests{Hashes: []digest.SHA256{v.SHA256}, Keys: []digest.SHA256{}, Revoked: p.Manifests.Revoked}
		m := &auditedMachine{f: f, v: v, policy: &q, now: now}
		if f.machine == "" {
			doc, err := audit.ReadSaved(src, savedEvidence, evidence.MaxEvidence)
			if err != nil {
				return nil, err
			}
			return m.document(doc)
		}
		u, err := url.Parse(f.machine)
		switch {
		case err == nil && u.Scheme == "gateway":
			return m.gateway(ctx, u)
		case err == nil && (u.Scheme == "http" || u.Scheme == "https"):
			return m.url(ctx, u)
		}
		doc, err := readInput("--machine", f.machine, evidence.MaxEvidence)
		if err != nil {
			return nil, err
		}
		return m.document(doc)
	}, nil
}

// auditedMachine is a machine under audit.
type auditedMachine struct {
	f      *auditFlags
	v      *manifest.Verified
	policy *policy.Policy
	now    time.Time
}

func (m *auditedMachine) document(doc []byte) ([]audit.Row, error) {
	ev, err := evidence.Parse(doc)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "evidence.parse", "give the evidence as it was served", "%w", err)
	}
	m.f.saved[savedEvidence] = doc
	return rows(m.appraise(ev, nil)), nil
}

func (m *auditedMachine) appraise(ev *evidence.Evidence, spki *digest.SHA256) *result.Result {
	return appraise.Appraise(ev, &appraise.Options{Policy: m.policy, Manifests: []*manifest.Verified{m.v}, Now: m.now, TLSSPKI: spki,
		NoChallenge: "this audit asked for none"})
}

// gateway connects to a worker through a gateway: the evidence is that of the
// enclave in which the connection ends.
func (m *auditedMachine) gateway(ctx context.Context, u *url.URL) ([]audit.Row, error) {
	var out []audit.Row
	o := client.Options{Gateway: u.Host, Appraise: func(ev *evidence.Evidence, spki digest.SHA256) error {
		r := m.appraise(ev, &spki)
		out = rows(r)
		return r.Err()
	}}
	if key := strings.Trim(u.Path, "/"); key != "" {
		d, err := digest.Parse256(key)
		if err != nil {
			return nil, usage("reading --machine: want gateway://HOST:PORT/RECEIPTKEY, the key as 64 hex digits")
		}
		o.Worker = d
	}
	c, err := client.New(o)
	if err != nil {
		return nil, err
	}
	p, err := c.Connect(ctx)
	if err != nil && len(out) == 0 {
		return nil, err
	}
	if err == nil {
		m.f.saved[savedEvidence] = p.Document
	}
	return out, nil
}

// url asks a verifier whether it knows the manifest, or reads evidence.
func (m *auditedMachine) url(ctx context.Context, u *url.URL) ([]audit.Row, error) {
	hc := &http.Client{Timeout: m.f.timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	vc, err := vclient.New(vclient.Options{BaseURL: u.String(), HTTP: hc})
	if err != nil {
		return nil, err
	}
	if ms, err := vc.Manifests(ctx); err == nil {
		row := audit.Row{Check: "machine.verifier", Name: u.Host, Status: audit.Fail, Expected: m.v.SHA256.String(), Actual: fmt.Sprintf("%d other manifests", len(ms)),
			Reason: "the verifier does not hold evidence against this manifest", Means: "it was set up for other releases", Remedy: "ask whoever runs it", Exit: fault.ExitPolicy}
		for _, x := range ms {
			if x.SHA256 == m.v.SHA256 {
				row = audit.Row{Check: row.Check, Name: row.Name, Status: audit.Pass, Actual: x.SHA256.String()}
			}
		}
		return []audit.Row{row}, nil
	}
	doc, err := get(ctx, hc, u)
	if err != nil {
		return nil, err
	}
	var peer struct {
		Evidence json.RawMessage `json:"evidence"` // of "cocoon proxy"
	}
	if json.Unmarshal(doc, &peer) == nil && len(peer.Evidence) > 0 {
		doc = peer.Evidence
	}
	return m.document(doc)
}

func get(ctx context.Context, hc *http.Client, u *url.URL) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("asking the machine: %w", err)
	}
	const remedy = "check the URL"
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "audit.machine", remedy, "asking the machine: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.ExitNetwork, "audit.machine", remedy, "asking the machine: status %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, evidence.MaxEvidence+1))
	if err != nil || len(b) > evidence.MaxEvidence {
		return nil, fault.New(fault.ExitNetwork, "audit.machine", remedy, "asking the machine: no answer of at most %d bytes", evidence.MaxEvidence)
	}
	return b, nil
}

// rows writes an appraisal's checks as rows of the audit.
func rows(r *result.Result) []audit.Row {
	var out []audit.Row
	for _, c := range r.Checks() {
		row := audit.Row{Check: "machine." + c.ID, Name: c.ID, Status: c.Status, Expected: c.Expected, Actual: c.Actual, Reason: c.Reason, Remedy: c.Remedy}
		if c.Status == result.Fail {
			row.Means, row.Exit = meaning(c.ID), result.ExitOf(c.ID)
		}
		out = append(out, row)
	}
	if !r.Accepted && len(r.Failed()) == 0 {
		out = append(out, audit.Row{Check: "machine.accepted", Name: "evidence", Status: audit.Fail, Reason: "the evidence is not accepted"})
	}
	return out
}

// meaning says what a failed check of evidence usually means.
func meaning(id string) string {
	for prefix, s := range map[string]string{
		"image.": "the machine booted other files than the release's", "pcr.": "the machine booted other files than the release's",
		"firmware.": "the machine has other firmware than those in the manifest", "config.": "its operator gave it a config outside the manifest's rules",
		"model.": "it serves another model", "tpm.ak.": "no authority of the policy speaks for the machine's TPM", "tls.": "the connection ends elsewhere than in the machine",
		"policy.": "the machine is of a kind that the policy does not accept", "manifest.": "the release is not accepted any more",
	} {
		if strings.HasPrefix(id, prefix) {
			return s
		}
	}
	return "the evidence was changed, or is of another machine or time"
}
