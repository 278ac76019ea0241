package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
	"cocoon/verifier/testfleet"
	"cocoon/verifier/wire"
)

// report is what was measured. Times are of verdicts unless they say otherwise.
type report struct {
	RatePerSecond float64 `json:"rate_per_s"` // verdicts
	P50           float64 `json:"p50_ms"`
	P99           float64 `json:"p99_ms"`
	Shed          int     `json:"shed"`      // answers 429
	RSS           int64   `json:"rss_bytes"` // of the verifier, the most that was seen during the interval

	Type           string  `json:"type"`
	Seconds        float64 `json:"seconds"` // of the interval
	Verdicts       int     `json:"verdicts"`
	EvidenceBytes  int     `json:"evidence_bytes"`
	Connections    int     `json:"connections"`
	OfferedPerSec  float64 `json:"offered_per_s"`             // requests that were sent
	AskedPerSec    float64 `json:"asked_per_s,omitempty"`     // that -rate or -load asked for
	CapacityPerSec float64 `json:"capacity_per_s,omitempty"`  // that -load measured first
	CapacityP99    float64 `json:"capacity_p99_ms,omitempty"` // of it
	// CapacityConnections is where the capacity was: at -concurrency, or at twice that.
	CapacityConnections int     `json:"capacity_connections,omitempty"`
	P90                 float64 `json:"p90_ms"`
	Max                 float64 `json:"max_ms"`
	ShedP50             float64 `json:"shed_p50_ms,omitempty"` // of 429
	ShedP99             float64 `json:"shed_p99_ms,omitempty"`
	Missed              int     `json:"missed"`                // arrivals that the hammer had no connection for
	Recovery            float64 `json:"recovery_ms,omitempty"` // after overload: until a verdict is given again
	Errors              int     `json:"errors"`                // answers that are neither
	FirstError          string  `json:"first_error,omitempty"`
	HammerCPU           float64 `json:"hammer_cpu_s"`
	HammerMicros        float64 `json:"hammer_cpu_us_per_request"`
	VerifierCPU         float64 `json:"verifier_cpu_s"`
	VerifierMicros      float64 `json:"verifier_cpu_us_per_verdict"`
	RSSBefore           int64   `json:"rss_bytes_before"`
	CPUs                int     `json:"cpus"` // of the hammer's machine
	ChallengesInAll     int     `json:"challenges"`
}

// Calibration of -load, which takes no longer than the interval, and of how much
// evidence is made beforehand.
const (
	calibration = 2 * time.Second
	warmUp      = 300
	maxStock    = 400_000
	smallStock  = 5000 // costs little, however slow the first requests were
	// Connections at a rate: enough that none of them is waited for, also where some
	// hold an answer that is late. With more, what grows is the hammer's own queue.
	loaded     = 128
	overloaded = 256
)

func hammer(ctx context.Context, o *options, fleet *testfleet.Fleet, say func(string, ...any)) (*report, error) {
	t, err := parseTarget(o.verifier)
	if err != nil {
		return nil, err
	}
	m, err := fleet.Machine(o.kind, time.Now())
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "usage", "see --help", "%w", err)
	}
	rep := &report{Type: o.kind, EvidenceBytes: m.Size(), Connections: o.concurrency, CPUs: runtime.NumCPU(), AskedPerSec: o.rate}
	// Warm, then measured for a moment, to know how much evidence the interval needs:
	// the first requests are slower than those that follow.
	var s *stock
	var speed float64
	first := min(calibration, o.duration)
	for _, n := range []int{warmUp, 0} {
		if n == 0 {
			n = min(maxStock, int(speed*first.Seconds()/4)+warmUp)
		}
		if s, err = fill(ctx, o.verifier, m, n); err != nil {
			return nil, err
		}
		rep.ChallengesInAll += n
		if speed == 0 {
			if err := accepted(ctx, t, s); err != nil {
				return nil, err
			}
		}
		var warm tally
		took := closedLoop(ctx, t, s, o.concurrency, first, &warm)
		if speed = float64(len(warm.latencies)) / took.Seconds(); speed == 0 {
			return nil, fault.New(fault.ExitInternal, "hammer.answers", "see the verifier's log", "no verdict was given: %s", warm.first)
		}
	}
	if o.load > 0 {
		say("measuring the capacity")
		for _, connections := range []int{o.concurrency, 2 * o.concurrency} {
			n := min(maxStock, int(2*max(speed, rep.CapacityPerSec)*first.Seconds())+warmUp)
			if s, err = fill(ctx, o.verifier, m, n); err != nil {
				return nil, err
			}
			rep.ChallengesInAll += n
			var full tally
			took := closedLoop(ctx, t, s, connections, first, &full)
			if rate := float64(len(full.latencies)) / took.Seconds(); rate > rep.CapacityPerSec {
				rep.CapacityPerSec, rep.CapacityP99, rep.CapacityConnections = rate, percentile(full.latencies, 0.99), connections
			}
		}
		rep.AskedPerSec = o.load * rep.CapacityPerSec
	}
	need := 1.6*speed*o.duration.Seconds() + warmUp
	if rep.AskedPerSec > 0 {
		need = min(rep.AskedPerSec*o.duration.Seconds(), max(1.6*max(speed, rep.CapacityPerSec)*o.duration.Seconds(), smallStock)) + warmUp
	}
	n := min(maxStock, int(need))
	say("fetching %d challenges and signing evidence", n)
	if s, err = fill(ctx, o.verifier, m, n); err != nil {
		return nil, err
	}
	rep.ChallengesInAll += n
	say("measuring for %v", o.duration)
	return rep, measure(ctx, o, t, s, rep)
}

// measure runs the interval.
func measure(ctx context.Context, o *options, t *target, s *stock, rep *report) error {
	before, err := scrape(ctx, o.verifier)
	if err != nil {
		return err
	}
	rep.RSSBefore = int64(before[metricRSS])
	most := make(chan int64, 1)
	sampling, stop := context.WithCancel(ctx)
	go func() { most <- sampleRSS(sampling, o.verifier) }()
	own := cpuTime()
	var out tally
	var took time.Duration
	if rep.AskedPerSec > 0 {
		connections := max(o.concurrency, loaded)
		if o.load > 1 {
			connections = max(o.concurrency, overloaded)
		}
		rep.Connections = connections
		took = openLoop(ctx, t, s, connections, rep.AskedPerSec, o.duration, &out)
	} else {
		took = closedLoop(ctx, t, s, o.concurrency, o.duration, &out)
	}
	rep.HammerCPU = (cpuTime() - own).Seconds()
	if len(out.shedTimes) > 0 {
		rep.Recovery = recovery(ctx, o, t, s)
	}
	stop()
	after, err := scrape(ctx, o.verifier)
	if err != nil {
		return err
	}
	rep.RSS = max(<-most, rep.RSSBefore, int64(after[metricRSS]))
	rep.VerifierCPU = after[metricCPU] - before[metricCPU]
	rep.fill(&out, took)
	return nil
}

// recovery waits until verdicts are given again and returns how long that
// took, in milliseconds.
func recovery(ctx context.Context, o *options, t *target, s *stock) float64 {
	c := &conn{t: t}
	defer c.close()
	start := time.Now()
	for time.Since(start) < time.Minute && ctx.Err() == nil {
		few, err := fill(ctx, o.verifier, s.machine, 1)
		if err == nil {
			b := few.take()
			if a, err := c.appraise(ctx, s.machine.Size(), func(dst []byte) []byte { return s.machine.AppendEvidence(dst, b) }); err == nil && a.accepted {
				break
			}
		}
	}
	return ms(time.Since(start))
}

func (r *report) fill(out *tally, took time.Duration) {
	r.Seconds = took.Seconds()
	r.Verdicts, r.Shed, r.Errors, r.FirstError, r.Missed = len(out.latencies), len(out.shedTimes), out.errors, out.first, out.missed
	requests := r.Verdicts + r.Shed + r.Errors
	r.RatePerSecond, r.OfferedPerSec = float64(r.Verdicts)/took.Seconds(), float64(requests)/took.Seconds()
	r.P50, r.P90, r.P99, r.Max = percentile(out.latencies, 0.5), percentile(out.latencies, 0.9), percentile(out.latencies, 0.99), percentile(out.latencies, 1)
	r.ShedP50, r.ShedP99 = percentile(out.shedTimes, 0.5), percentile(out.shedTimes, 0.99)
	if requests > 0 {
		r.HammerMicros = r.HammerCPU * 1e6 / float64(requests)
	}
	if r.Verdicts > 0 {
		r.VerifierMicros = r.VerifierCPU * 1e6 / float64(r.Verdicts)
	}
}

func (r *report) print(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("rate", "%.0f verdicts/s of %s, %d in %.1f s", r.RatePerSecond, r.Type, r.Verdicts, r.Seconds)
	line("latency", "p50 %.2f ms, p90 %.2f ms, p99 %.2f ms, max %.2f ms", r.P50, r.P90, r.P99, r.Max)
	line("offered", "%.0f requests/s of %d bytes on %d connections, %d missed", r.OfferedPerSec, r.EvidenceBytes, r.Connections, r.Missed)
	if r.CapacityPerSec > 0 {
		line("capacity", "%.0f verdicts/s on %d connections, p99 %.2f ms; %.0f requests/s were asked for", r.CapacityPerSec, r.CapacityConnections, r.CapacityP99, r.AskedPerSec)
	}
	line("shed", "%d, p50 %.2f ms, p99 %.2f ms", r.Shed, r.ShedP50, r.ShedP99)
	if r.Shed > 0 {
		line("recovery", "%.1f ms", r.Recovery)
	}
	line("errors", "%d %s", r.Errors, r.FirstError)
	line("memory", "%d bytes resident, %d before", r.RSS, r.RSSBefore)
	line("cpu", "verifier %.0f µs a verdict, hammer %.0f µs a request, of %d CPUs", r.VerifierMicros, r.HammerMicros, r.CPUs)
	_, err := io.WriteString(w, b.String())
	return err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// percentile returns the nearest rank, in milliseconds; 0 for nothing.
func percentile(ds []time.Duration, p float64) float64 {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	i := int(p*float64(len(ds))+0.9999999) - 1
	return ms(ds[min(max(i, 0), len(ds)-1)])
}

// Names of the verifier's metrics that count here.
const (
	metricRSS = "process_resident_memory_bytes"
	metricCPU = "process_cpu_seconds_total"
)

// scrape reads the verifier's metrics that have no labels.
func scrape(ctx context.Context, verifier string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(verifier, "/")+wire.PathMetrics, nil)
	if err != nil {
		return nil, unreachable(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	defer func() { _ = res.Body.Close() }() // read to its end
	out := map[string]float64{}
	lines := bufio.NewScanner(io.LimitReader(res.Body, maxAnswer))
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			out[name] = v
		}
	}
	if err := lines.Err(); err != nil {
		return nil, unreachable(err)
	}
	return out, nil
}

// sampleRSS returns the most memory that the verifier has until the context
// ends.
func sampleRSS(ctx context.Context, verifier string) int64 {
	var most int64
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return most
		case <-tick.C:
			if m, err := scrape(ctx, verifier); err == nil {
				most = max(most, int64(m[metricRSS]))
			}
		}
	}
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
