package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/eventlog"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/tpm"
)

// tpmReport is what "cocoon verify tpm" writes; docs/verify-tpm.md describes
// it.
type tpmReport struct {
	Accepted     bool              `json:"accepted"`
	TEE          string            `json:"tee"`         // "tpm"
	TrustClass   string            `json:"trust_class"` // "vtpm": a TPM alone shows measured boot
	Time         time.Time         `json:"time"`
	Quote        *tpmQuoteReport   `json:"quote"` // null: it does not parse
	Measurements map[string]string `json:"measurements"`
	Checks       []result.Check    `json:"checks"`

	verified bool
	faults   []error
}

// tpmQuoteReport is what the quote says beside its registers.
type tpmQuoteReport struct {
	QualifyingData  string `json:"qualifying_data"` // hex
	Scheme          string `json:"scheme"`          // of the signature; empty: it does not verify
	FirmwareVersion string `json:"firmware_version"`
	Clock           uint64 `json:"clock_ms"`
	ResetCount      uint32 `json:"reset_count"`
	RestartCount    uint32 `json:"restart_count"`
}

// fill takes over a verification's result.
func (r *tpmReport) fill(res *tpm.Result, in *tpmInputs) {
	r.verified, r.TrustClass = true, policy.ClassVTPM
	r.Checks = append(r.Checks, res.Checks...)
	if q := res.Quote; q != nil {
		r.Quote = &tpmQuoteReport{QualifyingData: hex.EncodeToString(q.ExtraData), Scheme: res.Scheme,
			FirmwareVersion: fmt.Sprintf("%016x", q.FirmwareVersion), Clock: q.Clock, ResetCount: q.ResetCount, RestartCount: q.RestartCount}
	}
	r.Measurements = bankMeasurements(res.Banks)
	if in.nonce != nil {
		c := result.Check{ID: "claims.nonce", Status: result.Pass, Expected: in.nonce.String(), Actual: in.claims.Nonce.String()}
		if *in.nonce != in.claims.Nonce {
			c.Status, c.Reason, c.Remedy = result.Fail, "the claims answer another challenge", "ask for evidence over your own nonce"
		}
		r.Checks = append(r.Checks, c)
	}
	if p := in.policy; p != nil {
		c := result.Check{ID: "policy.trust_class", Status: result.Pass, Actual: policy.ClassVTPM}
		if !p.Accepts(policy.ClassVTPM) {
			c.Status, c.Expected, c.Reason = result.Fail, strings.Join(p.TrustClasses, ", "), "the policy does not accept this trust class"
			c.Remedy = "use a machine of an accepted class; \"vtpm\" is for development only"
		}
		r.Checks = append(r.Checks, c)
	}
}

// bankMeasurements names registers "pcr4" in the SHA-256 bank and
// "sha384.pcr4" in the SHA-384 bank.
func bankMeasurements(b tpm.Banks) map[string]string {
	out := map[string]string{}
	for a, regs := range b {
		prefix := "pcr"
		if a != eventlog.SHA256 {
			prefix = tpm.BankName(a) + ".pcr"
		}
		for n, v := range regs {
			out[prefix+strconv.Itoa(n)] = hex.EncodeToString(v)
		}
	}
	return out
}

// finish adds the faults that no check stands for and draws the conclusion.
func (r *tpmReport) finish(err error) {
	for _, f := range dcappolicy.Faults(r.Checks) {
		r.faults = append(r.faults, f)
	}
	for _, f := range fault.All(err) {
		r.Checks = append(r.Checks, result.Check{ID: f.Code, Status: result.Fail, Expected: f.Expected, Actual: f.Actual, Reason: f.Msg, Remedy: f.Remedy})
		r.faults = append(r.faults, f)
	}
	if len(r.faults) == 0 && !r.verified {
		r.faults = append(r.faults, fault.New(fault.ExitRefused, "tpm.refused", "report this: a refusal without a failed check", "quote was not verified"))
	}
	r.Accepted = len(r.faults) == 0
}

// write writes the report and returns what decides the exit code.
func (r *tpmReport) write(w io.Writer, asJSON bool) error {
	return writeReport(w, asJSON, r, r.text, r.faults)
}

// text is the report for a person: the verdict, what failed and what to do,
// then what was found.
func (r *tpmReport) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	switch {
	case r.Accepted:
		line("accepted: TPM quote, trust class %s (measured boot, not confidentiality)", r.TrustClass)
	case r.verified:
		line("refused: TPM quote")
	default:
		line("refused: TPM quote, not verified")
	}
	writeFailures(&b, r.Checks)
	if r.verified {
		line("")
		if q := r.Quote; q != nil {
			line("%-14s %s", "carries", orNone(q.QualifyingData))
			line("%-14s %s", "signature", orNone(q.Scheme))
			line("%-14s %d ms, %d resets, %d restarts", "clock", q.Clock, q.ResetCount, q.RestartCount)
		}
		writeSkipped(&b, r.Checks)
		writeRegisters(&b, r.Measurements)
	}
	return b.String()
}

// writeSkipped writes the checks that were not made, and why.
func writeSkipped(b *strings.Builder, checks []result.Check) {
	for _, c := range checks {
		// What a policy does not ask for is in the JSON only.
		if c.Status == result.Skip && !strings.HasPrefix(c.ID, "policy.") {
			fmt.Fprintf(b, "%-14s %s: %s\n", "skipped", c.ID, plain(c.Reason))
		}
	}
}

// writeRegisters writes the registers that something was measured into, in
// order.
func writeRegisters(b *strings.Builder, m map[string]string) {
	var names []string
	for n, v := range m {
		if strings.Contains(n, "pcr") && strings.Trim(v, "0") != "" && strings.Trim(v, "f") != "" {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(x, y string) int {
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	})
	for _, n := range names {
		fmt.Fprintf(b, "%-14s %s\n", n, m[n])
	}
}

// decodeText returns what a file holds: raw bytes, which start with the given
// byte, or text in hex or base64.
func decodeText(b []byte, first byte) []byte {
	if len(b) > 0 && b[0] == first {
		return b
	}
	text := string(bytes.Join(bytes.Fields(b), nil))
	if out, err := hex.DecodeString(strings.TrimPrefix(text, "0x")); err == nil && len(out) > 0 {
		return out
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
		if out, err := enc.DecodeString(text); err == nil && len(out) > 0 {
			return out
		}
	}
	return b
}

// parsePCRs reads register values: JSON by bank and number, or the text that
// tpm2_pcrread prints, a line "sha256:" and lines "0 : 0x…" below it.
func parsePCRs(b []byte) (tpm.Banks, error) {
	names := map[string]eventlog.Algorithm{"sha256": eventlog.SHA256, "sha384": eventlog.SHA384}
	out := tpm.Banks{}
	add := func(bank, number, value string) error {
		a, ok := names[bank]
		if !ok {
			return nil // a bank that quotes are not verified over
		}
		n, err := strconv.ParseUint(number, 10, 8)
		if err != nil || n > 23 {
			return fmt.Errorf("register %.16q of bank %s", number, bank)
		}
		v, err := hex.DecodeString(strings.TrimPrefix(strings.ToLower(value), "0x"))
		if err != nil {
			return fmt.Errorf("value of register %d of bank %s is not hex", n, bank)
		}
		if out[a] == nil {
			out[a] = map[int][]byte{}
		}
		if _, dup := out[a][int(n)]; dup {
			return fmt.Errorf("register %d of bank %s twice", n, bank)
		}
		out[a][int(n)] = v
		return nil
	}
	if t := bytes.TrimSpace(b); len(t) > 0 && t[0] == '{' {
		var doc map[string]map[string]string
		if err := jcs.Decode(t, maxTPMInput, &doc); err != nil {
			return nil, err
		}
		for bank, regs := range doc {
			for n, v := range regs {
				if err := add(bank, n, v); err != nil {
					return nil, err
				}
			}
		}
	} else {
		bank := ""
		for line := range strings.Lines(string(b)) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
			key, value = strings.TrimSpace(key), strings.TrimSpace(value)
			switch {
			case key == "" && !ok:
			case !ok:
				return nil, fmt.Errorf("line %.32q", key)
			case value == "":
				bank = key
			default:
				if err := add(bank, key, value); err != nil {
					return nil, err
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no registers of the SHA-256 or SHA-384 bank")
	}
	return out, nil
}
