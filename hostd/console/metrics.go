package console

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// Bounds on what is kept of a guest's metrics.
const (
	maxSeries    = 64
	maxSeriesLen = 128
	metricPrefix = "cocoon_worker_"
)

// Metrics reads the samples of a metrics line, by name and labels as they are
// written (Prometheus text format 0.0.4). Histograms are left out, and so is
// what is no finite number. They are the guest's word.
func Metrics(raw json.RawMessage) map[string]float64 {
	var l struct {
		Metrics string `json:"metrics"`
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil
	}
	out := map[string]float64{}
	for line := range strings.Lines(l.Metrics) {
		i := strings.LastIndexByte(strings.TrimSpace(line), ' ')
		if i <= 0 || i > maxSeriesLen || !strings.HasPrefix(line, metricPrefix) || strings.Contains(line, "_bucket{") {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || len(out) >= maxSeries {
			continue
		}
		out[strings.ToValidUTF8(line[:i], "?")] = v
	}
	return out
}
