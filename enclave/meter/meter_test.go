package meter

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cocoon/enclave/serve"
)

func TestText(t *testing.T) {
	var m Meter
	m.Begin()
	m.Begin()
	m.End("/v1/chat/completions", 200, serve.Usage{Prompt: 9, Cached: 4, Completion: 12, Reasoning: 2}, 300*time.Millisecond)
	m.Refused("worker.busy")
	text := m.Text()
	for _, want := range []string{
		"cocoon_worker_requests_in_flight 1\n",
		`cocoon_worker_requests_total{endpoint="/v1/chat/completions",status="200"} 1` + "\n",
		`cocoon_worker_refusals_total{code="worker.busy"} 1` + "\n",
		`cocoon_worker_tokens_total{kind="prompt"} 9` + "\n",
		`cocoon_worker_tokens_total{kind="cached"} 4` + "\n",
		`cocoon_worker_tokens_total{kind="completion"} 12` + "\n",
		`cocoon_worker_tokens_total{kind="reasoning"} 2` + "\n",
		`cocoon_worker_request_duration_seconds_bucket{le="0.25"} 0` + "\n",
		`cocoon_worker_request_duration_seconds_bucket{le="0.5"} 1` + "\n",
		`cocoon_worker_request_duration_seconds_bucket{le="+Inf"} 1` + "\n",
		"cocoon_worker_request_duration_seconds_sum 0.3\n",
		"cocoon_worker_request_duration_seconds_count 1\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no line %q in\n%s", want, text)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if !strings.HasPrefix(line, "# HELP cocoon_worker_") && !strings.HasPrefix(line, "# TYPE cocoon_worker_") && !strings.HasPrefix(line, "cocoon_worker_") {
			t.Errorf("line %q is not in the text format", line)
		}
	}
}

func TestCodesCannotFillTheMemory(t *testing.T) {
	var m Meter
	for i := range 10 * maxCodes {
		m.Refused(fmt.Sprintf("code.%d", i))
	}
	if len(m.refused) != maxCodes+1 || m.refused["other"] != 9*maxCodes {
		t.Errorf("%d codes, %d others", len(m.refused), m.refused["other"])
	}
}

func TestSlowRequestsAreCounted(t *testing.T) {
	var m Meter
	m.Begin()
	m.End("/v1/completions", 200, serve.Usage{}, time.Hour)
	if !strings.Contains(m.Text(), `_bucket{le="600"} 0`) || !strings.Contains(m.Text(), `_bucket{le="+Inf"} 1`) {
		t.Error(m.Text())
	}
}
