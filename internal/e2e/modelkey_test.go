package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/client/modelowner"
	"cocoon/gateway"
	"cocoon/hostd/spec"
	"cocoon/hostd/swtpm"
	"cocoon/hostd/vsock"
	"cocoon/internal/imagetest"
	"cocoon/internal/jcs"
	"cocoon/internal/syncbuf"
	"cocoon/internal/toolstree"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/modelpack"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/server"
	"cocoon/verifier/tpm"
)

// TestAnEncryptedModelIsServed boots a machine with an encrypted pack of the
// small model. Its owner's service is away at first; then it releases the key to
// this machine, whose evidence it has appraised, and ends. The machine opens the
// pack, gets its verdict and answers a client that has verified it.
func TestAnEncryptedModelIsServed(t *testing.T) {
	b := imagetest.Find(t)
	o := newOwner(t, b, "chat")
	s := worker(t, b)
	dir := t.TempDir()
	gw := o.services(t, s, dir)

	var con syncbuf.Buffer
	m := startIn(t, dir, b, b.Tools, s, &con, nil, vsock.User)
	until(t, m, &con, "model-key")
	if !o.askedAgain.Load() {
		t.Error("the guest did not ask twice")
	}
	until(t, m, &con, "serve")
	var stages []string
	for _, g := range m.State().Guest.Stages {
		stages = append(stages, g.Name)
	}
	if order := strings.Join(stages, " "); !strings.Contains(order, "keys") || !strings.Contains(order, "enrol model-key model containerd engine evidence verdict") {
		t.Errorf("stages %s", order)
	}
	select {
	case err := <-o.ended:
		if err != nil {
			t.Errorf("the owner's service: %v\n%s", err, &o.said)
		}
	case <-time.After(engineLimit):
		t.Error("the owner's service goes on after its one release")
	}
	var answer struct {
		Answer     string `json:"answer"`
		ReceiptKey string `json:"receipt_key"`
	}
	out := o.cocoon(t, "chat", "--gateway", gw, "--policy", o.path("client-policy.json"), "--manifest", o.path("manifest.json"), "--max-tokens", "8", "--json", "Hello")
	if err := json.Unmarshal(out, &answer); err != nil || strings.TrimSpace(answer.Answer) == "" {
		t.Errorf("the answer is %s, %v", out, err)
	}
	o.checkRelease(t, answer.ReceiptKey)
	o.clientsPage(t, gw, answer.ReceiptKey)
	m.Stop(t.Context(), engineLimit)
	if st := m.State(); st.Reason != "stopped" {
		t.Errorf("it did not shut down by itself: %s\n%s", st.Reason, &con)
	}
	o.keyIsNowhere(t, con.String(), dir)
}

// owner is a model's owner with files of theirs in a directory.
type owner struct {
	dir        string
	program    string
	model      evidence.ConfigModel // for config.json
	beside     bool                 // the model is one of two, the second
	key        modelpack.Key
	weights    []byte
	signer     digest.SHA256 // of the manifest
	askedAgain atomic.Bool
	said       syncbuf.Buffer
	ended      chan error
	seen       syncbuf.Buffer // by the host, on the way to and from the service
}

func (o *owner) path(name string) string { return filepath.Join(o.dir, name) }

// cocoon runs the command line.
func (o *owner) cocoon(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), o.program, args...)
	cmd.Dir = o.dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cocoon %s: %v\n%s", strings.Join(args, " "), err, &errs)
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newOwner packs and encrypts the model under a name, and measures the image for
// it, and for the model of the packs.
func newOwner(t *testing.T, b imagetest.Build, name string) *owner {
	t.Helper()
	o := &owner{dir: t.TempDir(), program: program(t, "cocoon"), ended: make(chan error, 1)}
	root, err := toolstree.RepoRoot()
	must(t, err)
	o.weights, err = os.ReadFile(filepath.Join(root, "image", "models", "chat.gguf"))
	must(t, err)
	must(t, os.Mkdir(o.path(name), 0o700))
	must(t, os.WriteFile(o.path(name+"/chat.gguf"), o.weights, 0o600))
	var packed struct {
		ID     string
		Config evidence.ConfigModel
	}
	must(t, json.Unmarshal(o.cocoon(t, "model", "pack", name, "--revision", "secret", "--encrypt", "--out", "secret.pack", "--key-out", "secret.key", "--progress", "none", "--json"), &packed))
	o.model = packed.Config
	doc, err := os.ReadFile(o.path("secret.key"))
	must(t, err)
	o.key, _, err = modelpack.ParseKey(doc)
	must(t, err)
	if id := o.key.ID(); o.model.KeySHA256 == nil || *o.model.KeySHA256 != id {
		t.Fatalf("the config for the pack is %+v, its key %s", o.model, id)
	}
	o.signer, err = digest.Parse256(strings.TrimSpace(string(o.cocoon(t, "measure", "key", "--out", "release.key"))))
	must(t, err)
	o.cocoon(t, "measure", "--image", b.Image, "--packs", b.Packs, "--firmware", b.Tools.OVMF(), "--model", packed.ID, "--key", "release.key", "-o", "manifest.json")
	return o
}

// services starts a verifier, a gateway and the owner's service, and points the
// machine at them. It returns the gateway's address.
func (o *owner) services(t *testing.T, s *spec.Spec, dir string) string {
	t.Helper()
	ca, err := swtpm.OpenCA(filepath.Join(dir, "ca"), "default", time.Now)
	must(t, err)
	block, _ := pem.Decode(ca.RootPEM())
	akCA, err := tpm.NewCA("test", time.Now().Add(-time.Hour), 24*time.Hour)
	must(t, err)
	p := &policy.Policy{
		Format: policy.Format, Name: "model owner", Environment: policy.Development, TrustClasses: []string{policy.ClassVTPM},
		Manifests: policy.Manifests{Hashes: []digest.SHA256{}, Keys: []digest.SHA256{o.signer}, Threshold: 1, Revoked: []digest.SHA256{}},
		TPM:       &policy.TPM{EKRoots: [][]byte{}, DevelopmentEKRoots: [][]byte{block.Bytes}, AKRoots: [][]byte{akCA.Cert.Raw}},
		Freshness: policy.Freshness{RequireChallenge: true, VerdictSeconds: 3600},
	}
	own := *p
	own.Freshness.RequireChallenge = false // a client's connection is fresh by itself
	for name, v := range map[string]*policy.Policy{"policy.json": p, "client-policy.json": &own} {
		doc, err := jcs.Marshal(v)
		must(t, err)
		must(t, os.WriteFile(o.path(name), doc, 0o600))
	}
	verifier := o.verifier(t, p, akCA, block.Bytes)
	gw := startGateway(t)
	service := o.serve(t)
	s.Forwards = []spec.Forward{{Guest: "10.0.2.100:443", Target: gw}, {Guest: "10.0.2.101:80", Target: verifier}, {Guest: "10.0.2.103:80", Target: service}}
	doc, err := os.ReadFile(s.Config)
	must(t, err)
	cfg, err := evidence.ParseConfig(doc)
	must(t, err)
	op := evidence.Operator{Version: 1, Verifier: "http://10.0.2.101:80", Gateways: []string{"10.0.2.100:443"}}
	if o.beside {
		s.Packs.Models, cfg.Models = []string{o.path("secret.pack")}, []evidence.ConfigModel{o.model}
		op.Models = map[string]evidence.OperatorModel{o.model.Name: {ModelKeys: "http://10.0.2.103:80"}}
	} else {
		s.Packs.Model, cfg.Model = o.path("secret.pack"), o.model
		op.ModelKeys = "http://10.0.2.103:80"
	}
	for path, v := range map[string]any{s.Config: cfg, s.Operator: op} {
		doc, err := jcs.Marshal(v)
		must(t, err)
		must(t, os.WriteFile(path, doc, 0o600))
	}
	return gw
}

func (o *owner) verifier(t *testing.T, p *policy.Policy, akCA *tpm.CA, ekRoot []byte) string {
	t.Helper()
	env, err := os.ReadFile(o.path("manifest.json"))
	must(t, err)
	m, err := manifest.Open(env, p.Trust())
	must(t, err)
	roots, err := tpm.ParseRoots([][]byte{ekRoot})
	must(t, err)
	enroller, err := tpm.NewEnroller(tpm.EnrollerOptions{EKRoots: roots, CA: akCA})
	must(t, err)
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	v, err := server.New(server.Options{Build: "test", Trust: server.Trust{Policy: p, Manifests: []*manifest.Verified{m}, Signer: key, Enroller: enroller, AKRoots: p.TPM.AKRoots}})
	must(t, err)
	srv := httptest.NewServer(v)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func startGateway(t *testing.T) string {
	t.Helper()
	cert, err := gateway.SelfSigned(time.Now())
	must(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = gateway.New(gateway.Options{Certificate: cert, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, ln) // ends with ctx
	}()
	t.Cleanup(func() { cancel(); <-done })
	return ln.Addr().String()
}

var listeningRE = regexp.MustCompile(`listening (http://\S+)`)

// serve starts the owner's service for one release, and returns the address of
// the host's way to it: which is closed for the first request, and on which the
// host sees all.
func (o *owner) serve(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(o.program, "model", "release", "--key", "secret.key", "--policy", "policy.json", "--manifest", "manifest.json",
		"--log", "releases.log", "--listen", "127.0.0.1:0", "--cache-dir", "cache", "--once")
	cmd.Dir, cmd.Stdout, cmd.Stderr = o.dir, &o.said, &o.said
	must(t, cmd.Start())
	exited := make(chan struct{})
	go func() { o.ended <- cmd.Wait(); close(exited) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-exited }) // it has ended where all went well
	for !listeningRE.MatchString(o.said.String()) {
		select {
		case <-exited:
			t.Fatalf("the owner's service ended:\n%s", &o.said)
		case <-time.After(20 * time.Millisecond):
		}
	}
	to, err := url.Parse(listeningRE.FindStringSubmatch(o.said.String())[1])
	must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ModifyResponse = func(r *http.Response) error {
		body, err := io.ReadAll(r.Body)
		_, _ = o.seen.Write(body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		return err
	}
	var first sync.Once
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		away := false
		first.Do(func() { away = true })
		if away {
			http.Error(w, "not yet", http.StatusBadGateway)
			return
		}
		o.askedAgain.Store(true)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// checkRelease holds the log against the machine.
func (o *owner) checkRelease(t *testing.T, receiptKey string) {
	t.Helper()
	var log struct{ Releases []modelowner.Release }
	must(t, json.Unmarshal(o.cocoon(t, "model", "releases", "releases.log", "--json"), &log))
	if len(log.Releases) != 1 {
		t.Fatalf("%d releases", len(log.Releases))
	}
	r := log.Releases[0]
	if r.ReceiptKey.String() != receiptKey || r.TrustClass != policy.ClassVTPM || r.KeySHA256 != o.key.ID() || !strings.HasPrefix(r.Pack, o.model.Name+"@secret:"+o.model.Verity.Root.String()) || r.Evidence.IsZero() || r.Manifest.IsZero() {
		t.Errorf("released to %s: %+v", receiptKey, r)
	}
}

// keyIsNowhere looks for the key and the weights where the host looks. (The
// memory of a machine without a TEE is open to it; this is not about that.)
func (o *owner) keyIsNowhere(t *testing.T, console, dir string) {
	t.Helper()
	pack, err := os.ReadFile(o.path("secret.pack"))
	must(t, err)
	if bytes.Contains(pack, o.weights[len(o.weights)/2:][:64]) {
		t.Error("the pack shows the weights")
	}
	hexKey := hex.EncodeToString(o.key[:16])
	for what, text := range map[string]string{"the console": console, "the service's answers": o.seen.String(), "what the service says": o.said.String()} {
		if strings.Contains(text, hexKey) || strings.Contains(text, string(o.key[:16])) {
			t.Errorf("%s shows the key", what)
		}
	}
	if o.seen.String() == "" {
		t.Error("the host has seen no answer")
	}
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, o.key[:16]) || bytes.Contains(b, []byte(hexKey)) {
			t.Errorf("%s shows the key", path)
		}
		return err
	}))
}
