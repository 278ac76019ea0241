package registrysource

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/tpmtest"
)

// desk is a verifier that hands out every manifest with the proof that it has,
// after its time, and counts.
type desk struct {
	envelope string
	takes    time.Duration

	mu    sync.Mutex
	proof string
	asked int
}

func (d *desk) Manifest(ctx context.Context, _ digest.SHA256) (manifest.Published, error) {
	d.mu.Lock()
	d.asked++
	p := manifest.Published{Envelope: []byte(d.envelope), Inclusion: []byte(d.proof)}
	d.mu.Unlock()
	select {
	case <-time.After(d.takes):
		return p, nil
	case <-ctx.Done():
		return manifest.Published{}, ctx.Err()
	}
}

func (d *desk) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

func (d *desk) has(proof string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.proof = proof
}

func isGood(p manifest.Published) bool { return string(p.Inclusion) == "good" }

// TestWhoLeavesOutAProofKeepsNobodyFromIt asks verifiers in turn, of which the
// first ones hand out the manifest without a proof, or with one that shows nothing.
func TestWhoLeavesOutAProofKeepsNobodyFromIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stripping, bad, good := &desk{envelope: "e"}, &desk{envelope: "e", proof: "bad"}, &desk{envelope: "e", proof: "good"}
		c := newCollection(nil, []Fetcher{stripping, bad, good}, isGood)
		for range 2 {
			got, err := c.Listed(t.Context(), listing(first))
			if err != nil || len(got) != 1 || !isGood(got[0]) {
				t.Errorf("got %q, %v", got, err)
			}
			time.Sleep(2 * fetchAgain)
		}
		if stripping.count() != 1 || bad.count() != 1 || good.count() != 1 {
			t.Errorf("asked %d, %d and %d times, want each once", stripping.count(), bad.count(), good.count())
		}
	})
}

// TestAProofThatNobodyHasIsAskedForAgain has verifiers that do not have the proof
// yet: the manifest is there without, and whoever asks later does not wait for the
// next attempt.
func TestAProofThatNobodyHasIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early, bad := &desk{envelope: "e", takes: time.Second}, &desk{envelope: "e", proof: "bad"}
		c := newCollection(nil, []Fetcher{early, bad}, isGood)
		listed := func(proof string, waits time.Duration, asked int) {
			t.Helper()
			begin := time.Now()
			got, err := c.Listed(t.Context(), listing(first))
			if err != nil || len(got) != 1 || string(got[0].Inclusion) != proof || time.Since(begin) != waits {
				t.Errorf("got %q after %s, %v", got, time.Since(begin), err)
			}
			synctest.Wait()
			if early.count() != asked {
				t.Errorf("asked %d times, want %d", early.count(), asked)
			}
		}
		listed("bad", time.Second, 1)
		early.has("good")
		listed("bad", 0, 1) // not so soon
		time.Sleep(fetchAgain)
		listed("bad", 0, 2)
		time.Sleep(2 * time.Second)
		listed("good", 0, 2)
		early.has("")
		time.Sleep(fetchAgain)
		listed("good", 0, 2)
	})
}

// TestASilentVerifierHidesNoManifest has the one verifier hand out the manifest
// without its proof, and the next one answer to nobody.
func TestASilentVerifierHidesNoManifest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := &desk{takes: never}
		c := newCollection(nil, []Fetcher{&desk{envelope: "e"}, silent, silent}, isGood)
		begin := time.Now()
		if got, err := c.Listed(t.Context(), listing(first)); err != nil || len(got) != 1 || time.Since(begin) != fetchWait {
			t.Errorf("got %q after %s, %v", got, time.Since(begin), err)
		}
		time.Sleep(2 * fetchTimeout)
	})
}

// TestAFilesProofComesFromAVerifier has a manifest's file without a good proof
// beside it. The file's envelope stays, whatever envelope the proof came with.
func TestAFilesProofComesFromAVerifier(t *testing.T) {
	w := tpmtest.NewWorld(t)
	env, hash := w.Envelope(t), w.Manifests(t)[0].SHA256
	none := errors.New("nobody is asked")
	for name, c := range map[string]struct {
		proof string // of the file
		from  []Fetcher
		want  string
	}{
		"without":                  {"", []Fetcher{&desk{envelope: "other"}, &desk{envelope: "other", proof: "good"}}, "good"},
		"with a bad one":           {"bad", []Fetcher{&desk{envelope: "other", proof: "good"}}, "good"},
		"with a good one":          {"good", []Fetcher{failing{none}}, "good"},
		"that a verifier spoils":   {"bad", []Fetcher{&desk{envelope: "other", proof: "worse"}}, "bad"},
		"where nobody has one":     {"", []Fetcher{failing{none}}, ""},
		"where there is no source": {"bad", nil, "bad"},
	} {
		given := []manifest.Published{{Envelope: env, Inclusion: []byte(c.proof)}}
		got, err := newCollection(given, c.from, isGood).Listed(t.Context(), listing(hash))
		if err != nil || len(got) != 1 || string(got[0].Envelope) != string(env) || string(got[0].Inclusion) != c.want {
			t.Errorf("%s: got %d with %q, %v", name, len(got), got[0].Inclusion, err)
		}
		if string(given[0].Inclusion) != c.proof {
			t.Errorf("%s: what was given is overwritten", name)
		}
	}
	if _, err := newCollection(nil, []Fetcher{failing{none}}, isGood).Listed(t.Context(), listing(hash)); !fault.Has(err, "manifest.unavailable") {
		t.Errorf("one that nobody has: %v", err)
	}
}

// failing is a verifier that does not answer.
type failing struct{ err error }

func (f failing) Manifest(context.Context, digest.SHA256) (manifest.Published, error) {
	return manifest.Published{}, f.err
}
