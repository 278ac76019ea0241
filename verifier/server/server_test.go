package server_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/internal/fault"
	"cocoon/internal/verdictcell"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
	"cocoon/verifier/server"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
)

// service is a running verifier with a clock that tests move.
type service struct {
	w      *tpmtest.World
	key    ed25519.PrivateKey
	http   *httptest.Server
	client *client.Client
	dir    string

	mu  sync.Mutex
	now time.Time
}

func (s *service) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *service) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func start(t *testing.T, w *tpmtest.World, change func(*server.Options)) *service {
	t.Helper()
	s := &service{w: w, now: tpmtest.Now, dir: t.TempDir()}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.key = key
	roots, err := tpm.ParseRoots(w.Policy.TPM.EKRoots)
	if err != nil {
		t.Fatal(err)
	}
	enroller, err := tpm.NewEnroller(tpm.EnrollerOptions{EKRoots: roots, CA: w.AKCA, Clock: s.clock})
	if err != nil {
		t.Fatal(err)
	}
	o := server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(t), Signer: key, Enroller: enroller, AKRoots: w.Policy.TPM.AKRoots},
		ArchiveDir: s.dir, Clock: s.clock, Age: func() time.Duration { return s.clock().Sub(tpmtest.Now) }, Burst: 1000, PerSecond: 1000}
	if change != nil {
		change(&o)
	}
	h, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.http = httptest.NewServer(h)
	t.Cleanup(s.http.Close)
	if s.client, err = client.New(client.Options{BaseURL: s.http.URL}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) challenge(t *testing.T) digest.SHA256 {
	t.Helper()
	c, err := s.client.Challenge(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return c.Challenge
}

// TestTheWholeWay enrols a TPM, quotes with a challenge, and gets a verdict
// that verifies under the service's key.
func TestTheWholeWay(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	ctx := context.Background()
	m := s.w.TPM
	rsp, err := s.client.Enroll(ctx, &tpm.EnrollRequest{EKChain: m.EKChain, EKPublic: m.EKPublic, AKPublic: m.AKPublic})
	if err != nil {
		t.Fatal(err)
	}
	credential, err := m.Activate(rsp.CredentialBlob, rsp.Secret)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := s.client.Activate(ctx, &tpm.ActivateRequest{Session: rsp.Session, Credential: credential})
	if err != nil {
		t.Fatal(err)
	}
	ev := s.w.Evidence(t, s.challenge(t), digest.Sum256([]byte("a client's nonce")))
	ev.CPU.CertChain = cert.CertChain
	v, err := s.client.Verify(ctx, ev)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := s.client.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pinned := ed25519.PublicKey(keys.Keys[0].Public[:])
	e, err := result.VerifyEAR(v.EAR, result.EAROptions{Keys: []ed25519.PublicKey{pinned}, Now: s.clock(), AllowDevelopment: true})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := ev.Hash(); err != nil || e.EvidenceSHA256 != h {
		t.Errorf("verdict is on evidence %s", e.EvidenceSHA256)
	}
	if v.Cell != "" {
		t.Error("a worker without a ledger has a verdict for contracts")
	}
	list, err := s.client.Manifests(ctx)
	if err != nil || len(list) != 1 || list[0] != e.Manifest {
		t.Errorf("manifests %+v, %v", list, err)
	}
	if p, err := s.client.Manifest(ctx, e.Manifest.SHA256); err != nil || string(p.Envelope) != string(s.w.Envelope(t)) {
		t.Errorf("manifest %s, %v", p.Envelope, err)
	}
	if _, err := s.client.Manifest(ctx, digest.Sum256(nil)); !fault.Has(err, wire.CodeNoManifest) {
		t.Errorf("a manifest that is not there: %v", err)
	}
	for _, suffix := range []string{".evidence.json", ".result.json"} {
		if _, err := os.Stat(filepath.Join(s.dir, "accepted", e.EvidenceSHA256.String()+suffix)); err != nil {
			t.Errorf("not archived: %v", err)
		}
	}
	if err := s.client.Healthy(ctx); err != nil {
		t.Error(err)
	}
}

func TestAVerdictForContractsSaysTheSame(t *testing.T) {
	w := tpmtest.NewWorld(t)
	const addr = "0:83dfd552e63729b472fcbcc8c45ebcc6691702558b68ec7527e1ba403a0f31a8"
	w.Config.NetworkID, w.Config.Registry = -239, addr
	w.Manifest.Config.NetworkIDs, w.Manifest.Config.Registries = []int32{-239}, []string{addr}
	s := start(t, w, nil)
	ev := w.Evidence(t, s.challenge(t))
	if _, err := s.client.Verify(context.Background(), ev); !fault.Has(err, "claims.payout") {
		t.Errorf("without a payout address: %v", err)
	}
	ev = w.Evidence(t, s.challenge(t))
	ev.Claims.Payout = addr
	w.Requote(t, ev)
	v, err := s.client.Verify(context.Background(), ev)
	if err != nil {
		t.Fatal(err)
	}
	var c verdictcell.Verdict
	if err := c.UnmarshalText([]byte(v.Cell)); err != nil {
		t.Fatal(err)
	}
	hash, err := c.Hash()
	if err != nil {
		t.Fatal(err)
	}
	if !c.Signatures[0].Verify(s.key.Public().(ed25519.PublicKey), hash) {
		t.Error("the cell's signature does not verify")
	}
	if c.Common.EvidenceSHA256 != v.Result.EvidenceSHA256 || c.Common.Manifest != v.Result.Manifest.SHA256 ||
		c.Common.ReceiptKey != ev.Claims.ReceiptKey || c.Common.TrustClass != verdictcell.VTPM || c.Common.GlobalID != -239 {
		t.Errorf("cell %+v", c.Common)
	}
	if from, until := c.Interval(); from != uint64(v.Result.Time.Unix()) || until != uint64(v.Result.NotAfter.Unix()) {
		t.Errorf("cell holds from %d until %d", from, until)
	}
}

func TestChallengesServeOnce(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	ctx := context.Background()
	ch := s.challenge(t)
	ev := s.w.Evidence(t, ch)
	if _, err := s.client.Verify(ctx, ev); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, ev *evidence.Evidence, actual string) {
		t.Helper()
		_, err := s.client.Verify(ctx, ev)
		if !fault.Has(err, "nonce.challenge") {
			t.Errorf("%s: %v", what, err)
		}
		for _, f := range fault.All(err) {
			if f.Code == "nonce.challenge" && f.Actual != actual {
				t.Errorf("%s: actual %q, want %q", what, f.Actual, actual)
			}
		}
	}
	refused("the same evidence again", ev, "a challenge that was used before")
	refused("no challenge of ours", s.w.Evidence(t), "no challenge of this verifier")
	late := s.w.Evidence(t, s.challenge(t))
	s.advance(server.DefaultChallengeTTL)
	refused("an expired challenge", late, "an expired challenge")
	// After a restart nothing that was given before counts.
	before := s.challenge(t)
	s2 := start(t, s.w, nil)
	if _, err := s2.client.Verify(ctx, s.w.Evidence(t, before)); !fault.Has(err, "nonce.challenge") {
		t.Errorf("a challenge of before the restart: %v", err)
	}
}

func TestRefusalsCarryEveryCheck(t *testing.T) {
	w := tpmtest.NewWorld(t)
	s := start(t, w, nil)
	w.Boot.Components.InitrdSHA256 = digest.Sum256([]byte("evil"))
	w.Config.Engine.Verity.Root = digest.Sum256([]byte("evil"))
	_, err := s.client.Verify(context.Background(), w.Evidence(t, s.challenge(t)))
	for _, code := range []string{"image.initrd", "pcr.9", "config.engine.image_digest"} {
		if !fault.Has(err, code) {
			t.Errorf("%s is missing in %v", code, err)
		}
	}
	r := client.Refusal(err)
	if r == nil || r.Accepted || len(r.Checks()) < 30 {
		t.Errorf("result %+v", r)
	}
	if got := fault.ExitCode(err); got != fault.ExitPolicy {
		t.Errorf("exit code %d, want %d", got, fault.ExitPolicy)
	}
	if list, err := os.ReadDir(filepath.Join(s.dir, "refused")); err != nil || len(list) != 2 {
		t.Errorf("%d files of refused evidence, %v", len(list), err)
	}
}

func TestRequestsThatAreNoneAreRefused(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	big := strings.Repeat("a", evidence.MaxEvidence/3*4+4096)
	for name, c := range map[string]struct {
		method, typ, body string
		status            int
		code              string // of the first fault; empty: not one of ours
	}{
		"not JSON":                    {"Appraise", "application/json", "x", 400, ""},
		"another content type":        {"Appraise", "text/plain", "{}", 415, ""},
		"no evidence":                 {"Appraise", "application/json", "{}", 400, "evidence.parse"},
		"a time for evidence of ours": {"Appraise", "application/json", `{"evidence":"e30=","at":"2026-01-01T00:00:00Z"}`, 400, "request.at"},
		"too much evidence":           {"Appraise", "application/json", `{"evidence":"` + big + `"}`, 413, "request.too_large"},
		"too much enrolment":          {"Enroll", "application/json", `{"ekPublic":"` + big[:1<<17] + `"}`, 413, "request.too_large"},
		"an unknown key":              {"Enroll", "application/json", `{"x":1}`, 400, ""},
		"an empty enrolment":          {"Enroll", "application/json", `{}`, 400, "tpm.ek.format"},
		"an empty activation":         {"Activate", "application/json", `{}`, 400, "request.body"},
		"an unknown purpose":          {"Challenge", "application/json", `{"purpose":9}`, 400, "request.purpose"},
		"no quote":                    {"TCBStatus", "application/json", `{}`, 400, "request.collateral"},
		"an unknown verdict":          {"GetVerdict", "application/json", `{"evidenceSha256":"` + strings.Repeat("00", 32) + `"}`, 404, "verdict.unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := http.Post(s.http.URL+"/cocoon.verifier.v1.VerifierService/"+c.method, c.typ, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status || !strings.Contains(string(b), c.code) {
				t.Errorf("status %d %s, want %d %s", resp.StatusCode, b, c.status, c.code)
			}
		})
	}
}

// TestEvidenceThatDoesNotParseIsRefusedInFull wants of a document that is no
// evidence what every failure has: it is refused before there are checks.
func TestEvidenceThatDoesNotParseIsRefusedInFull(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	for name, body := range map[string]string{"no object": `{"evidence":"W10="}`, "an empty one": `{"evidence":"e30="}`, "recorded": `{"foreign":true,"evidence":"e30="}`} {
		resp, err := http.Post(s.http.URL+verifierv1connect.VerifierServiceAppraiseProcedure, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct {
			Details []struct {
				Value string
			}
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusBadRequest || len(answer.Details) != 1 {
			t.Fatalf("%s: status %d, %+v: %v", name, resp.StatusCode, answer, err)
		}
		b, err := base64.RawStdEncoding.DecodeString(answer.Details[0].Value)
		if err != nil {
			t.Fatal(err)
		}
		var faults verifierv1.Faults
		if err := proto.Unmarshal(b, &faults); err != nil || len(faults.Faults) == 0 {
			t.Fatalf("%s: %v: %v", name, &faults, err)
		}
		for _, f := range faults.Faults {
			if f.Code != "evidence.parse" || f.Message == "" || f.Expected == "" || f.Actual == "" || f.Remedy == "" || f.Document == "" || f.Section == "" {
				t.Errorf("%s: %v leaves something out", name, f)
			}
		}
	}
}

func TestClientsAreHeldToTheirRate(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.PerSecond, o.Burst = 1, 3 })
	ctx := context.Background()
	for range 3 {
		s.challenge(t)
	}
	_, err := s.client.Challenge(ctx)
	if !fault.Has(err, "verifier.rate_limited") || fault.ExitCode(err) != fault.ExitNetwork {
		t.Errorf("the fourth request: %v", err)
	}
	s.advance(time.Second)
	if _, err := s.client.Challenge(ctx); err != nil {
		t.Errorf("a second later: %v", err)
	}
}

func TestAFullArchiveStopsVerdicts(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.ArchiveBytes = 10 })
	_, err := s.client.Verify(context.Background(), s.w.Evidence(t, s.challenge(t)))
	if !fault.Has(err, "verifier.archive") {
		t.Errorf("got %v, want verifier.archive", err)
	}
}

func TestMetricsCount(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	if _, err := s.client.Verify(context.Background(), s.w.Evidence(t, s.challenge(t))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Verify(context.Background(), s.w.Evidence(t)); err == nil {
		t.Fatal("accepted without a challenge")
	}
	resp, err := http.Get(s.http.URL + wire.PathMetrics)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`cocoon_verifier_verdicts_total{trust_class="vtpm"} 1`,
		`cocoon_verifier_failed_checks_total{check="nonce.challenge"} 1`,
		`cocoon_verifier_requests_total{method="Challenge"} 1`,
		`cocoon_verifier_appraisal_seconds_count 2`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestConcurrentVerificationsShareNothing(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	var wg sync.WaitGroup
	for range 8 {
		ev := s.w.Evidence(t, s.challenge(t))
		wg.Go(func() {
			if _, err := s.client.Verify(context.Background(), ev); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestTheTableOfReferencesIsServed: a verdict's checks do not carry what they
// follow.
func TestTheTableOfReferencesIsServed(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	res, err := http.Get(s.http.URL + wire.PathChecks)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var table map[string]result.Reference
	if err := json.NewDecoder(res.Body).Decode(&table); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"nonce.challenge", "pcr."} {
		if want := result.ReferenceOf(id + map[bool]string{true: "1"}[strings.HasSuffix(id, ".")]); table[id] != want || want.Document == "" {
			t.Errorf("%s: %+v, want %+v", id, table[id], want)
		}
	}
}
