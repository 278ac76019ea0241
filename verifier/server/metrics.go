package server

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
)

// metrics are the service's counters. Labels have few values, all of this
// program's choice.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	problems *prometheus.CounterVec
	verdicts *prometheus.CounterVec
	refusals *prometheus.CounterVec
	seconds  prometheus.Histogram // to appraise
	signing  prometheus.Histogram
	turned   *prometheus.CounterVec // away, unread
	reloads  *prometheus.CounterVec
}

func newMetrics(pending, waiting func() float64) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cocoon_verifier_requests_total", Help: "Requests by method."}, []string{"method"}),
		problems: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cocoon_verifier_problems_total", Help: "Errors by method and first code."}, []string{"method", "code"}),
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cocoon_verifier_verdicts_total", Help: "Verdicts by trust class."}, []string{"trust_class"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cocoon_verifier_failed_checks_total", Help: "Failed checks of refused evidence."}, []string{"check"}),
		seconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "cocoon_verifier_appraisal_seconds", Help: "Time to appraise evidence.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9)}),
		signing:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "cocoon_verifier_signing_seconds", Help: "Time to sign a verdict.", Buckets: prometheus.ExponentialBuckets(0.00005, 4, 9)}),
		turned:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cocoon_verifier_turned_away_total", Help: "Requests that were turned away unread: queue (full), wait (for a slot too long), rate (of the caller)."}, []string{"why"}),
		reloads:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cocoon_verifier_reloads_total", Help: "Reloads: ok, and failed, after which everything is as before."}, []string{"outcome"}),
	}
	m.registry.MustRegister(m.requests, m.problems, m.verdicts, m.refusals, m.seconds, m.signing, m.turned, m.reloads, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cocoon_verifier_enrolments_pending", Help: "Enrolments under way."}, pending),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cocoon_verifier_appraisals_pending", Help: "Appraisals that run or wait."}, waiting))
	for _, why := range []string{turnedQueue, turnedWait, turnedRate} {
		m.turned.WithLabelValues(why)
	}
	for _, outcome := range []string{reloadOK, reloadFailed} {
		m.reloads.WithLabelValues(outcome)
	}
	return m
}

// Values of labels.
const (
	turnedQueue  = "queue"
	turnedWait   = "wait"
	turnedRate   = "rate"
	reloadOK     = "ok"
	reloadFailed = "failed"
)

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// methods are the names of the API's methods, by their paths.
var methods = func() map[string]string {
	out := map[string]string{}
	ms := verifierv1.File_verifier_v1_verifier_proto.Services().Get(0).Methods()
	for i := range ms.Len() {
		name := string(ms.Get(i).Name())
		out["/"+verifierv1connect.VerifierServiceName+"/"+name] = name
	}
	return out
}()

// method keeps paths that a client made up out of the labels.
func method(path string) string {
	if name, ok := methods[path]; ok {
		return name
	}
	if strings.HasPrefix(path, "/"+verifierv1connect.VerifierServiceName+"/") {
		return "other"
	}
	return path // of web, by this program's choice
}

func (m *metrics) refused(label, code string) { m.problems.WithLabelValues(label, code).Inc() }
