package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Metrics are an engine's own figures, in words that are the same for every
// kind. They are for people; nothing is billed or decided by them.
type Metrics struct {
	Running, Waiting  float64 // requests
	Prompt, Generated float64 // tokens since its start
	KV                float64 // part of the cache that is in use, 0 to 1; negative: not known
}

// names are the series of a kind that Metrics has.
type names struct {
	running, waiting, prompt, generated string
	kv                                  []string // whichever there is
}

var errNoMetrics = errors.New("the engine's metrics lack a series")

// Metrics implements Adapter.
func (k *kind) Metrics(ctx context.Context, a *API) (Metrics, error) {
	b, err := a.do(ctx, "GET", "/metrics", nil)
	if err != nil {
		return Metrics{}, err
	}
	return k.names.read(b)
}

// read takes the series from Prometheus' text format (version 0.0.4), each
// summed over its labels.
func (n *names) read(b []byte) (Metrics, error) {
	sums := map[string]float64{}
	want := append([]string{n.running, n.waiting, n.prompt, n.generated}, n.kv...)
	for _, w := range want {
		sums[w] = math.NaN()
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		end := strings.IndexAny(line, "{ \t")
		if end < 0 {
			continue
		}
		name := line[:end]
		old, ok := sums[name]
		if !ok {
			continue
		}
		rest := line[end:]
		if rest[0] == '{' {
			// The last brace: a label's value may hold one.
			close := strings.LastIndexByte(rest, '}')
			if close < 0 {
				continue
			}
			rest = rest[close+1:]
		}
		fields := strings.Fields(rest) // value and, perhaps, a time
		if len(fields) == 0 {
			continue
		}
		v, err := strconv.ParseFloat(fields[0], 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			continue
		}
		if math.IsNaN(old) {
			old = 0
		}
		sums[name] = old + v
	}
	m := Metrics{Running: sums[n.running], Waiting: sums[n.waiting], Prompt: sums[n.prompt], Generated: sums[n.generated], KV: -1}
	for _, name := range n.kv {
		if v := sums[name]; !math.IsNaN(v) {
			m.KV = v
			break
		}
	}
	for _, v := range []float64{m.Running, m.Waiting, m.Prompt, m.Generated} {
		if math.IsNaN(v) {
			return Metrics{}, errNoMetrics
		}
	}
	return m, nil
}

// Plus returns the figures of two engines together; of their caches, those of
// the fuller one.
func (m Metrics) Plus(o Metrics) Metrics {
	return Metrics{Running: m.Running + o.Running, Waiting: m.Waiting + o.Waiting,
		Prompt: m.Prompt + o.Prompt, Generated: m.Generated + o.Generated, KV: max(m.KV, o.KV)}
}

// Text returns the figures in Prometheus' text format.
func (m Metrics) Text() string {
	var b strings.Builder
	write := func(name, kind, help string, v float64) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n%s %s\n", name, help, name, kind, name, strconv.FormatFloat(v, 'g', -1, 64))
	}
	write("cocoon_engine_requests_running", "gauge", "Requests that the engine computes.", m.Running)
	write("cocoon_engine_requests_waiting", "gauge", "Requests that wait inside the engine.", m.Waiting)
	write("cocoon_engine_prompt_tokens_total", "counter", "Prompt tokens by the engine's own count.", m.Prompt)
	write("cocoon_engine_generated_tokens_total", "counter", "Generated tokens by the engine's own count.", m.Generated)
	if m.KV >= 0 {
		write("cocoon_engine_kv_cache_usage_ratio", "gauge", "Part of the engine's cache that is in use.", m.KV)
	}
	return b.String()
}
