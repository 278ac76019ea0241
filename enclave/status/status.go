// Package status has the lines that a confidential VM writes about itself:
// one JSON object a line on the virtio-serial port named PortName, and a short
// text form of the same on the console. They carry nothing secret and prove
// nothing; whoever must believe something asks for evidence.
package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"cocoon/internal/fault"
)

// PortName is the name of the virtio-serial port that takes the lines.
const PortName = "cocoon.status"

// MaxLine bounds one line in bytes, the newline included. Evidence with its
// event log is the longest.
const MaxLine = 4 << 20

// Types of lines.
const (
	TypeStage    = "stage"    // a boot stage began, passed or failed
	TypeState    = "state"    // the machine's state changed
	TypeWorker   = "worker"   // identity of this boot: keys, config, model
	TypeEvidence = "evidence" // the evidence that is offered from now on
	TypeVerdict  = "verdict"  // the verifier's answer to that evidence
	TypeMetrics  = "metrics"  // Prometheus text
	TypeProgress = "progress" // how far long work of a stage is
	TypeVoucher  = "voucher"  // a client's newest voucher for a job, which is money
	TypeLog      = "log"      // newest lines of the log, from a machine that halts
	TypeDrain    = "drain"    // the answer to an order of the host, and how a drain goes
)

// Statuses of a stage.
const (
	Running = "running"
	OK      = "ok"
	Failed  = "failed"
)

// States of the machine.
const (
	Booting  = "booting"
	Serving  = "serving"
	Paused   = "paused"   // up, but takes no requests: engine or verdict is missing
	Draining = "draining" // takes no requests and finishes what runs
	Drained  = "drained"  // takes no requests, and none runs
	Stopping = "stopping"
	Halted   = "halted" // failed closed
)

// Line is one line.
type Line struct {
	Time     time.Time       `json:"time"`      // RFC 3339 UTC, by the guest's clock
	UptimeMS int64           `json:"uptime_ms"` // since the kernel started
	Type     string          `json:"type"`
	Stage    string          `json:"stage,omitempty"`
	Status   string          `json:"status,omitempty"`
	MS       int64           `json:"ms,omitempty"` // duration of the stage
	State    string          `json:"state,omitempty"`
	Worker   *Worker         `json:"worker,omitempty"`
	Verdict  *Verdict        `json:"verdict,omitempty"`
	Evidence json.RawMessage `json:"evidence,omitempty"` // application/vnd.cocoon.evidence+json
	Metrics  string          `json:"metrics,omitempty"`
	Progress *Progress       `json:"progress,omitempty"`
	Voucher  json.RawMessage `json:"voucher,omitempty"` // receipt.SignedVoucher
	Drain    *Drain          `json:"drain,omitempty"`
	Log      []string        `json:"log,omitempty"`
	Faults   []Fault         `json:"faults,omitempty"`
}

// Worker is the identity of one boot.
type Worker struct {
	ReceiptKey    string   `json:"receipt_key"`     // Ed25519 public key, hex
	TLSSPKISHA256 string   `json:"tls_spki_sha256"` // hex
	ConfigSHA256  string   `json:"config_sha256"`   // hex
	Model         string   `json:"model"`
	Models        []string `json:"models,omitempty"` // further ones
	Payout        string   `json:"payout"`
}

// Progress is how far long work is, and how fast it goes.
type Progress struct {
	What           string `json:"what"` // such as model
	DoneBytes      uint64 `json:"done_bytes"`
	TotalBytes     uint64 `json:"total_bytes"`
	BytesPerSecond uint64 `json:"bytes_per_second"` // since its beginning
	Final          bool   `json:"final,omitempty"`  // no more follows
}

// Verdict is what the verifier said.
type Verdict struct {
	Model          string    `json:"model,omitempty"` // whose it is, where there are several
	Status         string    `json:"status"`          // EAR status: affirming, warning, contraindicated, none
	TrustClass     string    `json:"trust_class"`
	EvidenceSHA256 string    `json:"evidence_sha256"`
	SHA256         string    `json:"sha256"` // of the verdict's bytes
	Expires        time.Time `json:"expires"`
}

// Drain is how far the worker is with the host's last order (package
// hostorder).
type Drain struct {
	Order   string `json:"order"`             // its id; empty for the drain that ends the machine
	Phase   string `json:"phase"`             // serving, draining, drained
	Running int    `json:"running"`           // requests that run
	Waiting int    `json:"waiting"`           // requests that wait for their turn
	LeftMS  int64  `json:"left_ms,omitempty"` // until those that run are cut off
	Cut     int    `json:"cut,omitempty"`     // requests that were cut off
}

// Fault is one failure: its stable code, the values, and what to do.
type Fault struct {
	Code     string `json:"code"`
	Message  string `json:"message"`
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
}

// CodeInternal is the code of a failure that carries none of its own.
const CodeInternal = "boot.internal"

// Faults lists every failure in err's tree.
func Faults(err error) []Fault {
	if err == nil {
		return nil
	}
	all := fault.All(err)
	if len(all) == 0 {
		return []Fault{{Code: CodeInternal, Message: err.Error()}}
	}
	out := make([]Fault, 0, len(all))
	for _, f := range all {
		out = append(out, Fault{Code: f.Code, Message: f.Msg, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy})
	}
	return out
}

// Marshal returns the line as JSON with a newline.
func (l *Line) Marshal() ([]byte, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encoding status line: %w", err)
	}
	if len(b) >= MaxLine {
		return nil, fmt.Errorf("encoding status line: %d bytes, limit %d", len(b), MaxLine)
	}
	return append(b, '\n'), nil
}

// Parse reads one line. The guest is not trusted by its host: unknown types
// and statuses are the reader's to ignore.
func Parse(b []byte) (*Line, error) {
	if len(b) > MaxLine {
		return nil, fmt.Errorf("parsing status line: %d bytes, limit %d", len(b), MaxLine)
	}
	var l Line
	if err := json.Unmarshal(bytes.TrimSpace(b), &l); err != nil {
		return nil, fmt.Errorf("parsing status line: %w", err)
	}
	return &l, nil
}

// Console returns the line's text form without a newline, or "" for lines
// that do not belong on a console.
func (l *Line) Console() string {
	var b strings.Builder
	switch l.Type {
	case TypeStage:
		fmt.Fprintf(&b, "cocoon: stage=%s status=%s", l.Stage, l.Status)
		if l.Status != Running {
			fmt.Fprintf(&b, " ms=%d", l.MS)
		}
	case TypeState:
		fmt.Fprintf(&b, "cocoon: state=%s uptime_ms=%d", l.State, l.UptimeMS)
	case TypeWorker:
		if l.Worker == nil {
			return ""
		}
		fmt.Fprintf(&b, "cocoon: worker receipt_key=%s config=%s model=%s", l.Worker.ReceiptKey, l.Worker.ConfigSHA256, l.Worker.Model)
	case TypeProgress:
		// The console gets the end alone: a line a second would hide the rest.
		if l.Progress == nil || !l.Progress.Final {
			return ""
		}
		fmt.Fprintf(&b, "cocoon: loaded %s bytes=%d of=%d bytes_per_second=%d", l.Progress.What, l.Progress.DoneBytes, l.Progress.TotalBytes, l.Progress.BytesPerSecond)
	case TypeVerdict:
		if l.Verdict == nil {
			return ""
		}
		fmt.Fprintf(&b, "cocoon: verdict status=%s trust_class=%s expires=%s", l.Verdict.Status, l.Verdict.TrustClass, l.Verdict.Expires.Format(time.RFC3339))
	case TypeDrain:
		if l.Drain == nil {
			return ""
		}
		fmt.Fprintf(&b, "cocoon: drain=%s order=%s running=%d waiting=%d", l.Drain.Phase, l.Drain.Order, l.Drain.Running, l.Drain.Waiting)
	default:
		return ""
	}
	for _, f := range l.Faults {
		fmt.Fprintf(&b, "\ncocoon: code=%s msg=%q", f.Code, f.Message)
		if f.Expected != "" || f.Actual != "" {
			fmt.Fprintf(&b, " expected=%q actual=%q", f.Expected, f.Actual)
		}
		if f.Remedy != "" {
			fmt.Fprintf(&b, " remedy=%q", f.Remedy)
		}
	}
	return b.String()
}
