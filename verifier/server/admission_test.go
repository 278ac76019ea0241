package server_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
)

// gate are challenges that hold an appraisal, in its slot, until it is opened.
type gate struct {
	mu      sync.Mutex
	n       byte
	waiting chan struct{} // gets a value for each that comes
	open    chan struct{}
}

func newGate() *gate { return &gate{waiting: make(chan struct{}, 16), open: make(chan struct{})} }

func (g *gate) Issue(context.Context, verifierv1.Purpose, time.Duration) (digest.SHA256, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n++
	return digest.Sum256([]byte{g.n}), nil
}

func (g *gate) Take(ctx context.Context, _ verifierv1.Purpose, inputs []digest.SHA256) ([]digest.SHA256, string, error) {
	g.waiting <- struct{}{}
	select {
	case <-g.open:
		return inputs, "", nil
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
}

func (g *gate) Ready(context.Context) error { return nil }

// metric waits until a metric has a value.
func (s *service) metric(t *testing.T, line string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		resp, err := http.Get(s.http.URL + wire.PathMetrics)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), line+"\n") {
			return
		}
		if time.Now().After(deadline) {
			name, _, _ := strings.Cut(line, " ")
			t.Fatalf("no metric %q: %s", line, regexp.MustCompile("(?m)^"+regexp.QuoteMeta(name)+".*$").FindString(string(b)))
		}
	}
}

// post sends JSON to a method and returns status, Retry-After and body.
func (s *service) post(t *testing.T, method, body string) (int, string, string) {
	t.Helper()
	resp, err := http.Post(s.http.URL+"/cocoon.verifier.v1.VerifierService/"+method, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Retry-After"), string(b)
}

func (s *service) evidence(t *testing.T) string {
	t.Helper()
	b, err := s.w.Evidence(t, s.challenge(t)).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return `{"evidence":"` + base64.StdEncoding.EncodeToString(b) + `"}`
}

// TestAFullQueueTurnsAway fills slot and queue: who comes then is told to
// come back, everything else is answered, and who was let in gets his verdict.
func TestAFullQueueTurnsAway(t *testing.T) {
	g := newGate()
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.Challenges, o.Concurrent, o.Queue, o.Wait = g, 1, 1, time.Minute })
	var wg sync.WaitGroup
	for range 2 {
		body := s.evidence(t)
		wg.Go(func() {
			if status, _, b := s.post(t, "Appraise", body); status != http.StatusOK || !strings.Contains(b, `"accepted":true`) {
				t.Errorf("who was let in got status %d, %.200s", status, b)
			}
		})
	}
	<-g.waiting
	s.metric(t, "cocoon_verifier_appraisals_pending 2")
	status, after, b := s.post(t, "Appraise", s.evidence(t))
	if status != http.StatusTooManyRequests || after == "" || !strings.Contains(b, wire.CodeBusy) && !strings.Contains(b, "too many appraisals") {
		t.Errorf("with a full queue: status %d, Retry-After %q, %s", status, after, b)
	}
	s.metric(t, `cocoon_verifier_turned_away_total{why="queue"} 1`)
	s.challenge(t)
	if err := s.client.Healthy(context.Background()); err != nil {
		t.Errorf("with a full queue: %v", err)
	}
	close(g.open)
	wg.Wait()
	s.metric(t, "cocoon_verifier_appraisals_pending 0")
	if status, _, _ := s.post(t, "Appraise", s.evidence(t)); status != http.StatusOK {
		t.Errorf("afterwards: status %d", status)
	}
}

// TestAFullQueueTurnsAwayAzuresCallsToo fills slot and queue with appraisals:
// POST /attest/TdxVm is let in by the same door, before its body is read.
func TestAFullQueueTurnsAwayAzuresCallsToo(t *testing.T) {
	g := newGate()
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.Challenges, o.Concurrent, o.Queue, o.Wait = g, 1, 1, time.Minute })
	var wg sync.WaitGroup
	for range 2 {
		body := s.evidence(t)
		wg.Go(func() {
			if status, _, b := s.post(t, "Appraise", body); status != http.StatusOK {
				t.Errorf("who was let in got status %d, %.200s", status, b)
			}
		})
	}
	<-g.waiting
	s.metric(t, "cocoon_verifier_appraisals_pending 2")
	resp, err := http.Post(s.http.URL+wire.PathMAA, "application/json", strings.NewReader(`this is not read`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p wire.Problem
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Content-Type") != "application/problem+json" || p.Code != wire.CodeBusy || p.Status != http.StatusTooManyRequests {
		t.Errorf("status %d, headers %v, problem %+v", resp.StatusCode, resp.Header, p)
	}
	s.metric(t, `cocoon_verifier_turned_away_total{why="queue"} 1`)
	s.metric(t, `cocoon_verifier_problems_total{code="verifier.busy",method="/attest/TdxVm"} 1`)
	close(g.open)
	wg.Wait()
	// There is room again: the body is read now, and is no request.
	resp, err = http.Post(s.http.URL+wire.PathMAA, "application/json", strings.NewReader(`this is read`))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("afterwards: status %d", resp.StatusCode)
	}
}

// TestARejectionIsOneInEveryProtocol asks in each way that the service knows.
func TestARejectionIsOneInEveryProtocol(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.PerSecond, o.Burst = 1e-6, 1 })
	s.challenge(t)
	for typ, want := range map[string]struct {
		status int
		has    string
	}{
		"application/json":           {http.StatusTooManyRequests, `"code":"resource_exhausted"`},
		"application/proto":          {http.StatusTooManyRequests, `"code":"resource_exhausted"`},
		"application/grpc-web+proto": {http.StatusOK, "too many requests"},
		"text/plain":                 {http.StatusTooManyRequests, `"code":"verifier.rate_limited"`},
	} {
		resp, err := http.Post(s.http.URL+"/cocoon.verifier.v1.VerifierService/Appraise", typ, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		text := string(b) + fmt.Sprint(resp.Header, resp.Trailer)
		if err != nil || resp.StatusCode != want.status || !strings.Contains(text, want.has) || !strings.Contains(text, "Retry-After") {
			t.Errorf("%s: status %d, %v: %s", typ, resp.StatusCode, err, text)
		}
		if want.status == http.StatusTooManyRequests && resp.Header.Get("Content-Type") == "" {
			t.Errorf("%s: no content type", typ)
		}
	}
	c, err := client.New(client.Options{BaseURL: s.http.URL, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Challenge(context.Background()); !fault.Has(err, wire.CodeRateLimited) {
		t.Errorf("the client reads %v", err)
	}
}

func TestNobodyWaitsForASlotForever(t *testing.T) {
	g := newGate()
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.Challenges, o.Concurrent, o.Queue, o.Wait = g, 1, 4, time.Millisecond })
	first := s.evidence(t)
	done := make(chan int)
	go func() {
		status, _, _ := s.post(t, "Appraise", first)
		done <- status
	}()
	<-g.waiting
	if status, after, b := s.post(t, "Appraise", s.evidence(t)); status != http.StatusTooManyRequests || after == "" {
		t.Errorf("after waiting: status %d, Retry-After %q, %s", status, after, b)
	}
	s.metric(t, `cocoon_verifier_turned_away_total{why="wait"} 1`)
	close(g.open)
	if status := <-done; status != http.StatusOK {
		t.Errorf("who had the slot got status %d", status)
	}
}

func TestCallersOverTheirRateAreToldWhen(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.PerSecond, o.Burst = 1, 1 })
	s.challenge(t)
	if status, after, _ := s.post(t, "Challenge", "{}"); status != http.StatusTooManyRequests || after == "" {
		t.Errorf("status %d, Retry-After %q", status, after)
	}
	s.metric(t, `cocoon_verifier_turned_away_total{why="rate"} 1`)
}

// slowSigner signs when it is told to.
type slowSigner struct {
	key     ed25519.PrivateKey
	signing chan struct{}
	proceed chan struct{}
}

func (s *slowSigner) Public() crypto.PublicKey { return s.key.Public() }

func (s *slowSigner) Sign(r io.Reader, m []byte, o crypto.SignerOpts) ([]byte, error) {
	s.signing <- struct{}{}
	<-s.proceed
	return s.key.Sign(r, m, o)
}

// TestReadingEvidenceNeverBlocksSigning has one slot: while it is held by who
// reads, who was judged before gets his signature.
func TestReadingEvidenceNeverBlocksSigning(t *testing.T) {
	g := newGate()
	signer := &slowSigner{key: newKey(t), signing: make(chan struct{}), proceed: make(chan struct{})}
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.Challenges, o.Signer, o.Concurrent = g, signer, 1 })
	statuses := make(chan int, 2)
	appraise := func() {
		body := s.evidence(t)
		go func() {
			status, _, _ := s.post(t, "Appraise", body)
			statuses <- status
		}()
	}
	appraise()
	<-g.waiting
	g.open <- struct{}{}
	<-signer.signing // judged, and its slot is free
	appraise()
	<-g.waiting // the second holds the slot
	signer.proceed <- struct{}{}
	if status := <-statuses; status != http.StatusOK {
		t.Errorf("the first got status %d", status)
	}
	s.metric(t, "cocoon_verifier_signing_seconds_count 1")
	close(g.open)
	<-signer.signing
	signer.proceed <- struct{}{}
	if status := <-statuses; status != http.StatusOK {
		t.Errorf("the second got status %d", status)
	}
}

// TestTheClientVerifiesForItself gives it keys to believe.
func TestTheClientVerifiesForItself(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	for name, c := range map[string]struct {
		key  ed25519.PrivateKey
		dev  bool
		code string
	}{
		"the verifier's key":               {key: s.key, dev: true},
		"another key":                      {key: newKey(t), dev: true, code: "verdict.signature"},
		"a class that it is not to accept": {key: s.key, code: "verdict.development"},
	} {
		cl, err := client.New(client.Options{BaseURL: s.http.URL, Keys: []ed25519.PublicKey{c.key.Public().(ed25519.PublicKey)}, AllowDevelopment: c.dev, Clock: s.clock})
		if err != nil {
			t.Fatal(err)
		}
		ev := s.w.Evidence(t, s.challenge(t))
		v, err := cl.Verify(context.Background(), ev)
		if c.code != "" {
			if v != nil || !fault.Has(err, c.code) {
				t.Errorf("%s: %+v, %v", name, v, err)
			}
			continue
		}
		if err != nil || v.Claims == nil || v.Claims.TrustClass != "vtpm" {
			t.Fatalf("%s: %+v, %v", name, v, err)
		}
		h, err := ev.Hash()
		if err != nil {
			t.Fatal(err)
		}
		if v, err := cl.Stored(context.Background(), h); err != nil || v.Claims.EvidenceSHA256 != h {
			t.Errorf("%s: stored: %+v, %v", name, v, err)
		}
	}
}
