// Package meter counts what the worker does and writes it as Prometheus text.
// Labels carry endpoints, statuses and codes only: nothing that a client sent.
package meter

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cocoon/enclave/serve"
)

// maxCodes bounds the distinct codes that are counted apart.
const maxCodes = 128

// buckets of the duration histogram, in seconds.
var buckets = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}

// Meter counts. The zero value is ready.
type Meter struct {
	mu       sync.Mutex
	inFlight int
	waiting  int
	requests map[key]uint64
	refused  map[string]uint64
	tokens   serve.Usage
	hist     [13]uint64 // per bucket, and above
	seconds  float64
	count    uint64
}

type key struct {
	endpoint string
	status   int
}

// Begin counts a request in.
func (m *Meter) Begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inFlight++
}

// Waiting counts requests that wait for others to end.
func (m *Meter) Waiting(change int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting += change
}

// End counts a request out.
func (m *Meter) End(endpoint string, status int, u serve.Usage, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inFlight--
	if m.requests == nil {
		m.requests = map[key]uint64{}
	}
	m.requests[key{endpoint, status}]++
	m.tokens.Prompt += u.Prompt
	m.tokens.Cached += u.Cached
	m.tokens.Completion += u.Completion
	m.tokens.Reasoning += u.Reasoning
	s := took.Seconds()
	i, _ := slices.BinarySearch(buckets, s)
	m.hist[i]++
	m.seconds += s
	m.count++
}

// Refused counts a refusal by its code.
func (m *Meter) Refused(code string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refused == nil {
		m.refused = map[string]uint64{}
	}
	if _, ok := m.refused[code]; !ok && len(m.refused) >= maxCodes {
		code = "other"
	}
	m.refused[code]++
}

// Text returns the counters as Prometheus text, version 0.0.4.
func (m *Meter) Text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	head := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	head("cocoon_worker_requests_in_flight", "gauge", "Requests being served.")
	fmt.Fprintf(&b, "cocoon_worker_requests_in_flight %d\n", m.inFlight)
	head("cocoon_worker_requests_waiting", "gauge", "Of these, requests that wait for others to end.")
	fmt.Fprintf(&b, "cocoon_worker_requests_waiting %d\n", m.waiting)
	head("cocoon_worker_requests_total", "counter", "Requests served, by endpoint and status.")
	for _, k := range slices.SortedFunc(maps.Keys(m.requests), func(a, c key) int {
		if n := strings.Compare(a.endpoint, c.endpoint); n != 0 {
			return n
		}
		return a.status - c.status
	}) {
		fmt.Fprintf(&b, "cocoon_worker_requests_total{endpoint=%q,status=\"%d\"} %d\n", k.endpoint, k.status, m.requests[k])
	}
	head("cocoon_worker_refusals_total", "counter", "Requests refused, by code.")
	for _, code := range slices.Sorted(maps.Keys(m.refused)) {
		fmt.Fprintf(&b, "cocoon_worker_refusals_total{code=%q} %d\n", code, m.refused[code])
	}
	head("cocoon_worker_tokens_total", "counter", "Tokens billed, by kind.")
	for _, t := range []struct {
		kind string
		n    uint64
	}{{"cached", m.tokens.Cached}, {"completion", m.tokens.Completion}, {"prompt", m.tokens.Prompt}, {"reasoning", m.tokens.Reasoning}} {
		fmt.Fprintf(&b, "cocoon_worker_tokens_total{kind=%q} %d\n", t.kind, t.n)
	}
	m.histogram(&b, head)
	return b.String()
}

func (m *Meter) histogram(b io.Writer, head func(name, kind, help string)) {
	const name = "cocoon_worker_request_duration_seconds"
	head(name, "histogram", "Time from a request's first byte to its answer's last.")
	var sum uint64
	for i, le := range buckets {
		sum += m.hist[i]
		fmt.Fprintf(b, "%s_bucket{le=%q} %d\n", name, strconv.FormatFloat(le, 'g', -1, 64), sum)
	}
	fmt.Fprintf(b, "%s_bucket{le=\"+Inf\"} %d\n", name, m.count)
	fmt.Fprintf(b, "%s_sum %s\n", name, strconv.FormatFloat(m.seconds, 'g', -1, 64))
	fmt.Fprintf(b, "%s_count %d\n", name, m.count)
}
