package server

import (
	"strings"

	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cocoon/verifier/api"
)

// metrics are the service's counters. Labels have few values, all of this
// program's choice.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	problems *prometheus.CounterVec
	verdicts *prometheus.CounterVec
	seconds  prometheus.Histogram
}

func newMetrics(pending func() float64) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cocoon_verifier_requests_total", Help: "Requests by path."}, []string{"path"}),
		problems: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cocoon_verifier_problems_total", Help: "Errors by path and first code."}, []string{"path", "code"}),
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cocoon_verifier_verdicts_total", Help: "Verdicts by trust class."}, []string{"trust_class"}),
		seconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "cocoon_verifier_appraisal_seconds", Help: "Time to appraise evidence.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8)}),
	}
	m.registry.MustRegister(m.requests, m.problems, m.verdicts, m.seconds,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cocoon_verifier_enrolments_pending", Help: "Enrolments under way."}, pending))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// known keeps paths that a client made up out of the labels.
func known(path string) string {
	switch path {
	case api.PathChallenge, api.PathEnroll, api.PathActivate, api.PathVerify, api.PathKeys, api.PathManifests:
		return path
	}
	if strings.HasPrefix(path, api.PathManifests+"/") {
		return api.PathManifests
	}
	return "other"
}

func (m *metrics) refused(path, code string) { m.problems.WithLabelValues(known(path), code).Inc() }
