package demo

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cocoon/contracts/receipt"
	"cocoon/hostd/spec"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/pcr"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// vmName is the VM of the unchanged run.
const vmName = "demo"

// bootLimit bounds a boot under emulation on a busy machine.
const bootLimit = 4 * time.Minute

// firmwareRecorded reports whether the project knows PCR 0 and 7 of a
// firmware.
func firmwareRecorded(path string) (bool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("reading firmware: %w", err)
	}
	rec, err := pcr.Recorded()
	if err != nil {
		return false, err
	}
	for _, fw := range rec.Firmwares {
		if fw.SHA256 == digest.Sum256(b) {
			return true, nil
		}
	}
	return false, nil
}

// insecureClient speaks TLS to a gateway, which is trusted with nothing.
func insecureClient() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 10 * time.Second}
}

// vm is what differs between the runs of a VM.
type vm struct {
	name     string
	imageDir string
	engine   string
	model    string
	config   *evidence.Config
	tpmCA    string
}

func (r *run) unchanged(name string) (vm, error) {
	c, err := r.guestConfig()
	return vm{name: name, imageDir: r.imageDir(), engine: filepath.Join(r.packsDir(), "engine.img"),
		model: filepath.Join(r.packsDir(), "model.img"), config: c, tpmCA: "default"}, err
}

// spec writes the documents of a VM and returns its description.
func (r *run) spec(v vm) (*spec.Spec, error) {
	dir := r.temp("vm", v.name)
	cfg, op := filepath.Join(dir, "config.json"), filepath.Join(dir, "operator.json")
	operator := &evidence.Operator{Version: 1, Payout: r.chain.payout.String(), Verifier: "http://" + guestVerifier, Gateways: []string{guestGateway}}
	if err := errors.Join(writeCanonical(cfg, v.config), writeCanonical(op, operator)); err != nil {
		return nil, err
	}
	s := &spec.Spec{
		Version: 1, Name: v.name, TEE: spec.TEEVTPM, MemoryMiB: 1024, CPUs: 2, Image: v.imageDir,
		Packs: spec.Packs{Engine: v.engine, Model: v.model}, Config: cfg, Operator: op, TPMCA: v.tpmCA,
		Forwards: []spec.Forward{{Guest: guestGateway, Target: r.gatewayAddr}, {Guest: guestVerifier, Target: r.verifierAddr}},
	}
	return s, r.chain.spec(s, r.keep(fileTON), filepath.Join(dir, "ton-global.json"))
}

func (r *run) boot(ctx context.Context) error {
	r.begin("boot", "cocoon-hostd boots the VM; the supervisor measures, attests and serves")
	v, err := r.unchanged(vmName)
	if err != nil {
		return err
	}
	if err := writeCanonical(r.keep(fileConfig), v.config); err != nil {
		return err
	}
	s, err := r.spec(v)
	if err != nil {
		return err
	}
	st, err := r.host.start(ctx, s)
	if err != nil {
		return err
	}
	r.bootStart = st.Started
	r.rep.Accelerator, r.rep.AccelReason, r.rep.TrustClass, r.rep.Notice = st.Accel, st.AccelWhy, "vtpm", Notice
	r.rep.Transport = st.Transport
	r.note("accelerator %s: %s", st.Accel, st.AccelWhy)
	r.note("transport %s: %s", st.Transport, st.TransportWhy)
	st, err = r.host.wait(ctx, vmName, "serve", bootLimit)
	if err != nil {
		r.tail(vmName)
		return err
	}
	for _, g := range st.Guest.Stages {
		r.note("%7.1f s  %-10s %s", float64(g.HostMS)/1000, g.Name, g.Status)
	}
	return r.takeEvidence(ctx)
}

// takeEvidence keeps what the verifier accepted.
func (r *run) takeEvidence(ctx context.Context) error {
	name, err := only(filepath.Join(r.archive, "accepted"))
	if err != nil {
		return err
	}
	doc, err := os.ReadFile(name + ".evidence.json")
	if err != nil {
		return fmt.Errorf("reading evidence: %w", err)
	}
	res, verdict, err := readResult(name + ".result.json")
	if err != nil {
		return err
	}
	if err := r.logged(ctx, res.EvidenceSHA256, verdict); err != nil {
		return err
	}
	text, err := verdict.marshal()
	if err != nil {
		return err
	}
	r.rep.Verdict = ReportVerdict{Status: string(res.Status()), TrustClass: res.TrustClass, EvidenceSHA256: res.EvidenceSHA256,
		ExpiresAt: res.NotAfter.UTC().Format(time.RFC3339)}
	ev, err := evidence.Parse(doc)
	if err != nil {
		return err
	}
	r.worker, r.policyHash = ev.Claims.ReceiptKey, res.PolicySHA256
	if r.rep.PCRs, err = r.comparePCRs(ev, res); err != nil {
		return err
	}
	r.note("verdict %s, trust class %s, evidence %s", res.Status(), res.TrustClass, res.EvidenceSHA256)
	if err := errors.Join(writeFile(r.keep(fileEvidence), doc), writeFile(r.keep(fileVerdict), text)); err != nil {
		return err
	}
	where, err := (&kept{dir: r.Out}).log()
	if err != nil {
		return err
	}
	r.note("%s", where)
	return nil
}

// comparePCRs sets predicted beside measured registers; a difference in a
// predicted one is a failure whatever the verifier said.
func (r *run) comparePCRs(ev *evidence.Evidence, res *result.Result) ([]ReportPCR, error) {
	env, err := os.ReadFile(r.keep(fileManifest))
	if err != nil {
		return nil, fmt.Errorf("reading manifest: %w", err)
	}
	rows, err := pcrTable(env, r.manifestHash, ev, res)
	if err != nil {
		return nil, err
	}
	for _, p := range rows {
		if p.Predicted != "" && p.Predicted != p.Measured {
			return nil, fault.Mismatch(fault.ExitRefused, "demo.pcr", fmt.Sprintf("PCR %d", p.Index), p.Predicted, p.Measured, "see "+fileEvidence)
		}
	}
	return rows, nil
}

// pcrTable predicts every register that can be predicted, from the manifest
// and the config, and puts the quoted values beside.
func pcrTable(env []byte, hash digest.SHA256, ev *evidence.Evidence, res *result.Result) ([]ReportPCR, error) {
	m, err := openManifest(env, hash)
	if err != nil {
		return nil, err
	}
	if m.Manifest.TPM == nil || len(m.Manifest.TPM.Firmwares) != 1 {
		return nil, errors.New("comparing registers: the manifest has no or several firmwares")
	}
	fw := m.Manifest.TPM.Firmwares[0]
	events, err := evidence.RuntimeEvents(&ev.Config)
	if err != nil {
		return nil, err
	}
	var raw [][]byte
	for _, e := range events {
		b, err := e.Bytes()
		if err != nil {
			return nil, err
		}
		raw = append(raw, b)
	}
	var rows []ReportPCR
	for i := 0; i < 16; i++ {
		measured, ok := res.Measurements[fmt.Sprintf("pcr%d", i)]
		if !ok {
			continue
		}
		row := ReportPCR{Index: i, Measured: measured, Source: "computed"}
		switch v, ok := fw.PCRs[i]; {
		case i == 15:
			row.Predicted = pcr.Runtime(raw).String()
		case i == 1:
			row.Source = "reported"
		case i == 0 || i == 7:
			row.Source = "recorded"
			row.Predicted = v.String()
		case ok:
			row.Predicted = v.String()
		default:
			return nil, fmt.Errorf("comparing registers: nothing is predicted for PCR %d", i)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// only returns the path, without suffix, of the one evidence file in dir that
// was not there before.
func only(dir string, before ...string) (string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.evidence.json"))
	if err != nil {
		return "", err
	}
	var fresh []string
	for _, n := range names {
		base := strings.TrimSuffix(n, ".evidence.json")
		known := false
		for _, b := range before {
			known = known || b == base
		}
		if !known {
			fresh = append(fresh, base)
		}
	}
	if len(fresh) != 1 {
		return "", fmt.Errorf("looking for the evidence that the verifier kept in %s: %d files, want one", dir, len(fresh))
	}
	return fresh[0], nil
}

func archived(dir string) []string {
	names, _ := filepath.Glob(filepath.Join(dir, "*.evidence.json"))
	for i := range names {
		names[i] = strings.TrimSuffix(names[i], ".evidence.json")
	}
	return names
}

// tail shows the end of a VM's console when something went wrong.
func (r *run) tail(name string) {
	b, err := r.host.console(name)
	if err != nil {
		return
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if len(lines) > 25 {
		lines = lines[len(lines)-25:]
	}
	r.note("the end of the console:")
	for _, l := range lines {
		r.note("| %.200s", l)
	}
}

func (r *run) chat(ctx context.Context) error {
	r.begin("chat", "the client verifies the worker itself, then chats over TLS that ends in the enclave")
	key := hex.EncodeToString(r.worker[:])
	out, err := r.command(ctx, "cocoon", "chat", "--gateway", r.gatewayAddr, "--worker", key, "--policy", r.keep(fileCPolicy),
		"--manifests-from", "http://"+r.verifierAddr, "--ton-config", r.keep(fileTON),
		"--job", r.chain.job.String(), "--client-key", r.temp("vouchers.seed"), "--receipts", r.temp("receipts.log"), "--json", r.Prompt)
	if err != nil {
		return err
	}
	var res struct {
		Answer     string          `json:"answer"`
		Model      string          `json:"model"`
		FirstToken time.Time       `json:"first_token_at"`
		Receipt    *receipt.Signed `json:"receipt"`
	}
	if err := json.Unmarshal(out, &res); err != nil {
		return fmt.Errorf("reading answer: %w", err)
	}
	if strings.TrimSpace(res.Answer) == "" {
		return fault.New(fault.ExitInternal, "demo.answer", "see the logs", "the model's answer is empty")
	}
	if res.Receipt == nil {
		return fault.New(fault.ExitRefused, "receipt.missing", "see the logs", "the answer came without a receipt")
	}
	r.rep.Model, r.rep.Prompt, r.rep.Answer = res.Model, r.Prompt, res.Answer
	r.rep.FirstToken = res.FirstToken.Sub(r.bootStart).Seconds()
	r.note("prompt: %s", r.Prompt)
	r.note("answer: %s", strings.TrimSpace(res.Answer))
	r.note("boot to first token: %.1f s", r.rep.FirstToken)
	return r.keepReceipt(res.Receipt)
}
