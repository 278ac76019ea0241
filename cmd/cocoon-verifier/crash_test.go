package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/measurements/digest"
	"cocoon/measurements/log/tiles"
	"cocoon/verifier/journal"
)

// kills is how often the crash test kills the service.
const kills = 4

// TestKilledAtAnyMoment kills the real program under load, at random moments,
// and starts it again: no used evidence gets a second verdict, every verdict
// that was handed out is in the journal and, where its promise says, in the
// published log, and both are whole.
func TestKilledAtAnyMoment(t *testing.T) {
	f := newFleet(t)
	dir := installFleet(t, f, nil)
	handed := map[digest.SHA256][]digest.SHA256{} // by evidence: the tokens
	var promises []string
	var used [][]byte
	var mu sync.Mutex
	for round := range kills {
		p := startProcess(t, dir, "--config", "config.yaml")
		go func() { _, _ = p.log.WriteTo(discard{}) }()
		c := dial(t, p.url)
		for _, doc := range used {
			if v, err := c.VerifyBytes(t.Context(), doc); err == nil || !fault.Has(err, "nonce.challenge") {
				t.Fatalf("round %d: evidence of before got %+v, %v", round, v, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan struct{})
		var once, wg = sync.Once{}, sync.WaitGroup{}
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					doc, err := f.live(ctx, c)
					if err != nil {
						return // it was killed
					}
					v, err := c.VerifyBytes(ctx, doc)
					mu.Lock()
					if len(used) < 200 {
						used = append(used, doc)
					}
					if err == nil {
						h := digest.SHA256(hash(t, doc))
						handed[h] = append(handed[h], digest.Sum256([]byte(v.EAR)))
						promises = append(promises, v.Promise)
						once.Do(func() { close(first) })
					}
					mu.Unlock()
					if err == nil && rand.IntN(4) == 0 { // the same once more, into the crash
						if v, err := c.VerifyBytes(ctx, doc); err == nil {
							t.Errorf("used evidence got a second verdict: %+v", v)
						}
					}
				}
			})
		}
		select {
		case <-first:
		case <-time.After(time.Minute):
			t.Fatal("no verdict in a minute")
		}
		// Random moments are the point here; nothing waits for this long.
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait() // by the signal
		cancel()
		wg.Wait()
	}
	if out, err := exec.CommandContext(t.Context(), program(t), "fsck", filepath.Join(dir, "journal")).CombinedOutput(); err != nil {
		t.Errorf("fsck after the kills: %v\n%s", err, out)
	}
	key, err := keyfile.ReadEd25519(filepath.Join(dir, "keys", "journal.key"))
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(journal.Options{Dir: filepath.Join(dir, "journal"), Origin: "localhost/verifier", Key: ed25519.PrivateKey(key),
		Publish: &journal.Publish{Interval: 100 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	t.Logf("%d verdicts over %d kills", len(handed), kills)
	for h, tokens := range handed {
		if len(tokens) != 1 {
			t.Errorf("evidence %s got %d verdicts", h, len(tokens))
		}
		found, err := j.Find(journal.ByEvidence, h, 10)
		if err != nil || len(found) != 1 || found[0].Entry.Verdict != tokens[0] {
			t.Errorf("a verdict that was handed out is not in the journal: %+v, %v", found, err)
		}
	}
	end := time.Now().Add(2 * time.Minute) // of the publisher, which catches up
	for _, note := range promises {
		p, err := journal.OpenPromise([]byte(note), j.Key())
		if err != nil {
			t.Fatal(err)
		}
		for {
			if _, err = j.ProvePublished(t.Context(), p.Index, p.Leaf); !errors.Is(err, journal.ErrNotPublished) || time.Now().After(end) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			t.Fatalf("the promise of entry %d is not kept: %v", p.Index, err)
		}
	}
	published, err := tiles.Open(filepath.Join(dir, "journal", journal.LogDir))
	if err != nil {
		t.Fatal(err)
	}
	if err := published.Fsck(t.Context()); err != nil {
		t.Errorf("the published log after the kills: %v", err)
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
