package api

import (
	"net/http"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cocoon/hostd/machine"
)

// metrics are counted here; what VMs do is read when it is asked for.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	handler  http.Handler
}

func newMetrics(h Host) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cocoon_hostd_requests_total", Help: "Calls by method and outcome."}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "cocoon_hostd_request_seconds", Help: "Time of a call by method.",
			Buckets: []float64{0.001, 0.01, 0.1, 1, 10, 60, 600}}, []string{"method"}),
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.requests, m.seconds, &vms{h})
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	return m
}

// observe counts a call. Methods are the service's, never a caller's text.
func (m *metrics) observe(procedure string, began time.Time, code string) {
	name := path.Base(procedure)
	m.requests.WithLabelValues(name, code).Inc()
	m.seconds.WithLabelValues(name).Observe(time.Since(began).Seconds())
}

// vms reads the VMs' states.
type vms struct{ h Host }

var (
	vmsDesc      = prometheus.NewDesc("cocoon_hostd_vms", "VMs by phase.", []string{"phase"}, nil)
	restartsDesc = prometheus.NewDesc("cocoon_hostd_vm_restarts", "Restarts since the VM last ran for a while.", []string{"vm"}, nil)
	startedDesc  = prometheus.NewDesc("cocoon_hostd_vm_start_time_seconds", "When the VM was started, in Unix time.", []string{"vm"}, nil)
	servingDesc  = prometheus.NewDesc("cocoon_hostd_vm_serving", "1 if the guest says that it serves.", []string{"vm"}, nil)
	badDesc      = prometheus.NewDesc("cocoon_hostd_vm_bad_status_lines", "Status lines of the guest that could not be read.", []string{"vm"}, nil)
)

// Describe implements prometheus.Collector.
func (v *vms) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{vmsDesc, restartsDesc, startedDesc, servingDesc, badDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (v *vms) Collect(ch chan<- prometheus.Metric) {
	list, err := v.h.List()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(vmsDesc, err)
		return
	}
	n := map[string]int{machine.Starting: 0, machine.Running: 0, machine.Stopping: 0, machine.Stopped: 0, machine.Failed: 0}
	gauge := func(d *prometheus.Desc, v float64, label string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label)
	}
	for _, s := range list {
		n[s.Phase]++
		gauge(restartsDesc, float64(s.Restarts), s.Name)
		gauge(startedDesc, float64(s.Started.Unix()), s.Name)
		gauge(badDesc, float64(s.BadLines), s.Name)
		on := 0.0
		if s.Phase == machine.Running && s.Guest.State == machine.Serving {
			on = 1
		}
		gauge(servingDesc, on, s.Name)
	}
	for phase, count := range n {
		gauge(vmsDesc, float64(count), phase)
	}
}
