package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/verifier/policy"
	"cocoon/verifier/policy/snp"
)

// trickling serves the answers of another, and while it is told to, all of the
// headers and half of a body at once and then a byte now and then, never the last.
type trickling struct {
	http.Handler
	on       atomic.Bool
	requests atomic.Int64
	ended    <-chan struct{}
}

// ServeHTTP implements http.Handler.
func (h *trickling) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.requests.Add(1)
	if !h.on.Load() {
		h.Handler.ServeHTTP(w, r)
		return
	}
	whole := httptest.NewRecorder()
	h.Handler.ServeHTTP(whole, r)
	for name, v := range whole.Header() {
		w.Header()[name] = v
	}
	b := whole.Body.Bytes()
	w.WriteHeader(whole.Code)
	send := func(b []byte) {
		_, _ = w.Write(b) // whoever asked may have gone
		_ = http.NewResponseController(w).Flush()
	}
	send(b[:len(b)/2])
	for i := len(b) / 2; ; i++ {
		select {
		case <-h.ended:
			return
		case <-r.Context().Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
		if i < len(b)-1 {
			send(b[i : i+1])
		}
	}
}

// tricklingSources are the test sources, each behind a trickling.
func tricklingSources(t *testing.T) ([]testSource, map[string]*trickling, map[string]string) {
	t.Helper()
	ended := make(chan struct{})
	list := sources(t, ended)
	by, paths := map[string]*trickling{}, map[string]string{}
	for i := range list {
		h := &trickling{Handler: list[i].handler, ended: ended}
		list[i].handler, by[list[i].section] = h, h
		paths[list[i].section] = impatient(t, list[i].strict(t))
	}
	var once sync.Once
	t.Cleanup(func() { once.Do(func() { close(ended) }) }) // before the servers end
	return list, by, paths
}

// strict is the config with manifests for GPUs that are due within the hour, and a
// policy that wants AMD's revocation lists.
func (src *testSource) strict(t *testing.T) string {
	t.Helper()
	path := src.config(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if src.section == "gpu_cache" {
		b = bytes.Replace(b, []byte(`"timeout_seconds":`), []byte(`"ttl_seconds":3600,"timeout_seconds":`), 1)
	}
	replace(t, path, append([]byte(`{"limits":{"per_second":1000000,"burst":1000000},`), b[1:]...))
	file := filepath.Join(filepath.Dir(path), "policy.json")
	if b, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if p.SNP == nil {
		p.SNP = snp.Default()
	}
	p.SNP.RequireCRL = src.section == "kds"
	if b, err = p.Marshal(); err != nil {
		t.Fatal(err)
	}
	replace(t, file, b)
	return path
}

// refusedBy is what refuses evidence where a source's documents are missing.
var refusedBy = map[string]string{"pcs": "dcap.collateral.", "kds": "snp.kds.", "gpu_cache": "gpu.rim."}

// TestASourceThatTricklesIsGivenUp asks for verdicts while each of the makers'
// services answers byte by byte: evidence is refused by what is missing, and where
// it is held, accepted.
func TestASourceThatTricklesIsGivenUp(t *testing.T) {
	list, by, paths := tricklingSources(t)
	for _, src := range list {
		t.Run(src.section, func(t *testing.T) {
			by[src.section].on.Store(true)
			s := startSourced(t, paths[src.section])
			if r := s.appraise(t, src.kind); r.Accepted || !strings.Contains(failedIDs(r), refusedBy[src.section]) {
				t.Errorf("accepted %v, failed %s; %q", r.Accepted, failedIDs(r), source(r))
			}
			by[src.section].on.Store(false)
			s = startSourced(t, paths[src.section])
			if r := s.appraise(t, src.kind); !r.Accepted {
				t.Fatalf("while it answers: failed %s", failedIDs(r))
			}
			by[src.section].on.Store(true)
			if r := s.appraise(t, src.kind); !r.Accepted || !strings.Contains(source(r), "held") {
				t.Errorf("held: failed %s; %q", failedIDs(r), source(r))
			}
		})
	}
}

// fetched is what a verdict says of a document that the source misbehaves with;
// OCSP answers are none of those.
var fetched = map[string]string{"pcs": "fetched", "kds": "fetched", "gpu_cache": "RIMs fetched"}

// TestARefreshThatFailsLeavesWhatIsHeldToItsEnd lets what is held become due, and
// has the source be down, lie, answer half and trickle then: it is asked, what is
// held goes on within its dates and is called that, and not after them.
func TestARefreshThatFailsLeavesWhatIsHeldToItsEnd(t *testing.T) {
	list, by, paths := tricklingSources(t)
	for _, src := range list {
		for name, then := range map[string]behaviour{"it is down": down, "it lies": lying, "it answers by halves": halving, "it trickles": answers} {
			t.Run(src.section+": "+name, func(t *testing.T) {
				h := by[src.section]
				h.on.Store(false)
				src.behave(answers)
				c := &clock{now: time.Now()}
				start := c.now
				s := startSourcedAt(t, paths[src.section], c.Now)
				if r := s.appraise(t, src.kind); !r.Accepted || !strings.Contains(source(r), "fetched") {
					t.Fatalf("while it answers: %q, failed %s", source(r), failedIDs(r))
				}
				src.behave(then)
				h.on.Store(then == answers)
				before := h.requests.Load()
				c.set(start.Add(13 * time.Hour)) // due by every source's rule
				// Intel's is asked beside the appraisal: the verdict after it says why.
				for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
					r := s.appraise(t, src.kind)
					if !r.Accepted || !strings.Contains(source(r), "held") || strings.Contains(source(r), fetched[src.section]) {
						t.Fatalf("once it is due: %q, failed %s", source(r), failedIDs(r))
					}
					if strings.Contains(source(r), "does not answer as it should") && h.requests.Load() > before {
						break
					}
					if time.Now().After(end) {
						t.Fatalf("%d requests, and it says %q", h.requests.Load()-before, source(r))
					}
				}
				c.set(start.Add(45 * day))
				if r := s.appraise(t, src.kind); r.Accepted || !strings.Contains(failedIDs(r), refusedBy[src.section]) {
					t.Errorf("past its end: accepted %v, failed %s; %q", r.Accepted, failedIDs(r), source(r))
				}
				h.on.Store(false)
				src.behave(answers)
			})
		}
	}
}
