package appraise_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/tpmtest"
)

// logger signs the checkpoints of a log of two manifests, the one that is asked
// about and another.
type logger struct {
	signer note.Signer
	key    log.Key
}

func newLogger(t *testing.T, origin string) logger {
	t.Helper()
	private := ed25519.NewKeyFromSeed(seed(origin))
	k, err := log.NewKey(origin, private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	s, err := log.Signer(origin, private)
	if err != nil {
		t.Fatal(err)
	}
	return logger{s, k}
}

func seed(s string) []byte { sum := sha256.Sum256([]byte(s)); return sum[:] }

// prove returns the proof that a manifest is in the log, cosigned.
func (l logger) prove(t *testing.T, m digest.SHA256, by ...witnessKey) []byte {
	t.Helper()
	leaf, other := log.LeafHash(m), log.LeafHash(digest.Sum256([]byte("another manifest")))
	root := rfc6962.DefaultHasher.HashChildren(leaf[:], other[:])
	signers := []note.Signer{l.signer}
	for _, w := range by {
		signers = append(signers, w.signer)
	}
	cp, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n2\n%s\n", l.key.Origin, base64.StdEncoding.EncodeToString(root))}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return (&log.Inclusion{Index: 0, Hashes: []digest.SHA256{other}, Checkpoint: cp}).Text()
}

type witnessKey struct {
	signer note.Signer
	key    string // as policies have it
}

func newWitness(t *testing.T, name string) witnessKey {
	t.Helper()
	private := ed25519.NewKeyFromSeed(seed(name))
	public := append([]byte{1}, private.Public().(ed25519.PublicKey)...)
	sum := sha256.Sum256(append([]byte(name+"\n"), public...))
	id := binary.BigEndian.Uint32(sum[:])
	s, err := fnote.NewSignerForCosignatureV1(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", name, id, base64.StdEncoding.EncodeToString(append([]byte{1}, private.Seed()...))))
	if err != nil {
		t.Fatal(err)
	}
	v, err := fnote.VKeyToCosignatureV1(fmt.Sprintf("%s+%08x+%s", name, id, base64.StdEncoding.EncodeToString(public)))
	if err != nil {
		t.Fatal(err)
	}
	return witnessKey{s, v}
}

// TestAManifestMustBeInTheLogThatThePolicyNames appraises good evidence under a
// policy that wants its manifest to be in public.
func TestAManifestMustBeInTheLogThatThePolicyNames(t *testing.T) {
	w := tpmtest.NewWorld(t)
	id, ev := w.Manifests(t)[0].SHA256, w.Evidence(t)
	ours, theirs := newLogger(t, "log.example/cocoon"), newLogger(t, "log.example/other")
	sameName := newLogger(t, "log.example/cocoon")
	sameName.key.Public = ed25519.NewKeyFromSeed(seed("forged")).Public().(ed25519.PublicKey)
	first, second, third := newWitness(t, "first.example"), newWitness(t, "second.example"), newWitness(t, "third.example")
	keys := func(ls ...logger) (out []log.Key) {
		for _, l := range ls {
			out = append(out, l.key)
		}
		return out
	}
	cosigned := &policy.Log{Keys: keys(ours), Witnesses: []string{first.key, second.key}, Threshold: 2}
	good := ours.prove(t, id)
	for name, c := range map[string]struct {
		want   *policy.Log
		proof  []byte
		reason string // of the failure; empty: accepted
		actual string // is in the check
	}{
		"in the log":                  {&policy.Log{Keys: keys(ours)}, good, "", "entry 0 of 2 in log.example/cocoon+"},
		"in one of two logs":          {&policy.Log{Keys: keys(theirs, ours)}, good, "", "entry 0 of 2 in log.example/cocoon+"},
		"without a proof":             {&policy.Log{Keys: keys(ours)}, nil, "no proof", "none"},
		"with another manifest's":     {&policy.Log{Keys: keys(ours)}, ours.prove(t, digest.Sum256(nil)), "no proof", "does not lead to the checkpoint's root"},
		"with another log's":          {&policy.Log{Keys: keys(ours)}, theirs.prove(t, id), "no proof", "not signed by the log's key"},
		"of a log of the same name":   {&policy.Log{Keys: keys(sameName)}, good, "no proof", "not signed by the log's key"},
		"with a proof that is none":   {&policy.Log{Keys: keys(ours)}, []byte("proof"), "no proof", "wrong form"},
		"cosigned":                    {cosigned, ours.prove(t, id, first, second), "", "cosigned by 2 of 2 witnesses"},
		"cosigned by too few":         {cosigned, ours.prove(t, id, second), "too few witnesses", "cosigned by 1 of 2 witnesses"},
		"cosigned by others":          {cosigned, ours.prove(t, id, second, third), "too few witnesses", "cosigned by 1 of 2 witnesses"},
		"cosigned by one who may do":  {&policy.Log{Keys: keys(ours), Witnesses: cosigned.Witnesses, Threshold: 1}, ours.prove(t, id, second), "", "cosigned by 1 of 2"},
		"cosigned twice by one alone": {cosigned, ours.prove(t, id, second, second), "too few witnesses", "cosigned by 1 of 2 witnesses"},
	} {
		t.Run(name, func(t *testing.T) {
			p := *w.Policy
			p.Manifests.Log = c.want
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			ms, err := appraise.OpenManifests(&p, []manifest.Published{{Envelope: w.Envelope(t), Inclusion: c.proof}})
			if err != nil {
				t.Fatal(err)
			}
			r := appraise.Appraise(ev, &appraise.Options{Policy: &p, Manifests: ms, Now: tpmtest.Now})
			got := logged(t, r)
			if r.Accepted != (c.reason == "") || (got.Status == result.Pass) != r.Accepted {
				t.Fatalf("accepted %v, check %+v", r.Accepted, got)
			}
			if !strings.HasPrefix(got.Reason, c.reason) || !strings.Contains(got.Actual, c.actual) || got.Document == "" || got.Section == "" {
				t.Errorf("check %+v, want reason %q and actual %q", got, c.reason, c.actual)
			}
			if !r.Accepted && (got.Expected == "" || got.Remedy == "" || !slices.Equal(failedIDs(r), []string{"manifest.logged"})) {
				t.Errorf("check %+v, failed %v", got, failedIDs(r))
			}
		})
	}
}

// TestASuccessorThatNoLogHasEndsItsPredecessorAllTheSame has the one manifest's
// grace end by another that the policy trusts and nobody has put into the log: the
// log narrows what is accepted and never keeps anything in force.
func TestASuccessorThatNoLogHasEndsItsPredecessorAllTheSame(t *testing.T) {
	w := tpmtest.NewWorld(t)
	ev, id, env := w.Evidence(t), w.Manifests(t)[0].SHA256, w.Envelope(t)
	later := *w.Manifest
	later.Image.Version++
	later.Supersedes = []manifest.Superseded{{Manifest: id, GraceUntil: tpmtest.Now.Add(-time.Minute).UTC().Truncate(time.Second)}}
	w.Manifest = &later
	ours := newLogger(t, "log.example/cocoon")
	p := *w.Policy
	p.Manifests.Log = &policy.Log{Keys: []log.Key{ours.key}}
	ms, err := appraise.OpenManifests(&p, []manifest.Published{{Envelope: env, Inclusion: ours.prove(t, id)}, {Envelope: w.Envelope(t)}})
	if err != nil {
		t.Fatal(err)
	}
	if appraise.CheckLogged(&p, ms[0]) != nil || appraise.CheckLogged(&p, ms[1]) == nil {
		t.Fatalf("in the log: %v, %v", appraise.CheckLogged(&p, ms[0]), appraise.CheckLogged(&p, ms[1]))
	}
	r := appraise.Appraise(ev, &appraise.Options{Policy: &p, Manifests: ms[:1], Now: tpmtest.Now})
	if !r.Accepted {
		t.Fatalf("the older one alone: %v", r.Err())
	}
	r = appraise.Appraise(ev, &appraise.Options{Policy: &p, Manifests: ms, Now: tpmtest.Now})
	if r.Accepted {
		t.Errorf("accepted %v by %v after its grace", r.Accepted, r.Manifest)
	}
	r = appraise.Appraise(ev, &appraise.Options{Policy: &p, Manifests: ms[1:], Now: tpmtest.Now})
	if r.Accepted || !slices.Equal(failedIDs(r), []string{"manifest.logged"}) {
		t.Errorf("the later one alone: accepted %v, failed %v", r.Accepted, failedIDs(r))
	}
}

func logged(t *testing.T, r *result.Result) result.Check {
	t.Helper()
	for _, c := range r.Submods[result.SubImage].Checks {
		if c.ID == "manifest.logged" {
			return c
		}
	}
	t.Fatal("there is no check manifest.logged")
	return result.Check{}
}

// TestWhatAnotherPolicyFoundInItsLogIsNoWayAround appraises with manifests that
// were opened under another policy.
func TestWhatAnotherPolicyFoundInItsLogIsNoWayAround(t *testing.T) {
	w := tpmtest.NewWorld(t)
	ev, id := w.Evidence(t), w.Manifests(t)[0].SHA256
	ours, theirs := newLogger(t, "log.example/cocoon"), newLogger(t, "log.example/other")
	witness := newWitness(t, "witness.example")
	want := *w.Policy
	want.Manifests.Log = &policy.Log{Keys: []log.Key{ours.key}, Witnesses: []string{witness.key}, Threshold: 1}
	for name, c := range map[string]struct {
		log   *policy.Log
		proof []byte
	}{
		"that names no log":      {nil, ours.prove(t, id, witness)},
		"that names another log": {&policy.Log{Keys: []log.Key{theirs.key}, Witnesses: []string{witness.key}, Threshold: 1}, theirs.prove(t, id, witness)},
		"that wants no witness":  {&policy.Log{Keys: []log.Key{ours.key}}, ours.prove(t, id)},
	} {
		p := *w.Policy
		p.Manifests.Log = c.log
		ms, err := appraise.OpenManifests(&p, []manifest.Published{{Envelope: w.Envelope(t), Inclusion: c.proof}})
		if err != nil {
			t.Fatal(err)
		}
		r := appraise.Appraise(ev, &appraise.Options{Policy: &want, Manifests: ms, Now: tpmtest.Now})
		if r.Accepted || !slices.Equal(failedIDs(r), []string{"manifest.logged"}) {
			t.Errorf("%s: accepted %v, failed %v", name, r.Accepted, failedIDs(r))
		}
	}
	r := appraise.Appraise(ev, &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now})
	for _, c := range r.Submods[result.SubImage].Checks {
		if c.ID == "manifest.logged" {
			t.Errorf("the policy names no log, and there is %+v", c)
		}
	}
}
