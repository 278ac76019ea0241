package server_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/journal"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/result"
	"cocoon/verifier/server"
	"cocoon/verifier/snp"
	"cocoon/verifier/testfleet"
	"cocoon/verifier/wire"
)

// attester is a TD of the test fleet before a service.
type attester struct {
	fleet      *testfleet.Fleet
	machine    *testfleet.Machine
	collateral json.RawMessage
	server     *server.Server
	key        ed25519.PrivateKey
	log        *journal.Journal
}

func newAttester(t *testing.T, change func(*server.Options)) *attester {
	t.Helper()
	f, err := testfleet.New("attest")
	if err != nil {
		t.Fatal(err)
	}
	a := &attester{fleet: f}
	if a.machine, err = f.Machine(testfleet.TDX, time.Now()); err != nil {
		t.Fatal(err)
	}
	doc, err := a.machine.Evidence(digest.Sum256(nil))
	if err != nil {
		t.Fatal(err)
	}
	ev, err := evidence.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	a.collateral = ev.Collateral
	if _, a.key, err = ed25519.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	if a.log, err = journal.Open(journal.Options{Dir: filepath.Join(t.TempDir(), "journal"), Origin: "verifier.example/verdicts", Key: a.key, Promises: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.log.Close() })
	o := server.Options{Trust: server.Trust{Policy: f.Policy(), Signer: a.key,
		CPUs: tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: f.TDXPKI().Roots()}, SNP: snp.Options{Roots: f.SNPPKI().Roots()}})},
		Journal: server.NewDurable(a.log, time.Now), PerSecond: 1e6, Burst: 1e6}
	if change != nil {
		change(&o)
	}
	if a.server, err = server.New(o); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *attester) challenge(t *testing.T, p verifierv1.Purpose) digest.SHA256 {
	t.Helper()
	var c verifierv1.ChallengeResponse
	call(t, a.server, verifierv1connect.VerifierServiceChallengeProcedure, &verifierv1.ChallengeRequest{Purpose: p}, &c)
	d, err := digest.Parse256(c.Challenge)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// attempt is a request in the making.
type attempt struct {
	data, kind string
	hash       func(data string) []byte
	body       func(body []byte)  // of the TD report, before it is signed
	quote      func(quote []byte) // after that
	member     map[string]any     // further members of the request
}

func sum256(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:] }

func (a *attester) request(t *testing.T, c *attempt) []byte {
	t.Helper()
	q, err := a.machine.Quote(func(body []byte) {
		report := body[520:584]
		clear(report)
		copy(report, c.hash(c.data))
		if c.body != nil {
			c.body(body)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.quote != nil {
		c.quote(q)
	}
	m := map[string]any{"quote": base64.RawURLEncoding.EncodeToString(q), "collateral": a.collateral,
		"runtimeData": map[string]string{"data": base64.RawURLEncoding.EncodeToString([]byte(c.data)), "dataType": c.kind}}
	for k, v := range c.member {
		m[k] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (a *attester) post(body io.Reader) (int, http.Header, []byte) {
	r := httptest.NewRequest(http.MethodPost, wire.PathMAA+"?api-version=2023-04-01-preview", body)
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	w := httptest.NewRecorder()
	a.server.ServeHTTP(w, r)
	return w.Code, w.Result().Header, w.Body.Bytes()
}

func (a *attester) fresh(t *testing.T) *attempt {
	return &attempt{kind: "JSON", hash: sum256, data: `{"key":"k1","nonce":"` + a.challenge(t, verifierv1.Purpose_PURPOSE_ATTEST_TDX).String() + `"}`}
}

// TestATDIsAttestedInAzuresShape has a token for a quote over a challenge, which
// an independent reader of JWTs accepts, and which is in the log.
func TestATDIsAttestedInAzuresShape(t *testing.T) {
	a := newAttester(t, nil)
	initTime := "the TD's configuration"
	c := a.fresh(t)
	c.body = func(b []byte) { h := sha512.Sum384([]byte(initTime)); copy(b[184:232], h[:]) }
	c.member = map[string]any{"nonce": "of the caller", "initTimeData": map[string]string{"data": base64.URLEncoding.EncodeToString([]byte(initTime)), "dataType": "Binary"}}
	status, header, body := a.post(bytes.NewReader(a.request(t, c)))
	var answer map[string]string
	if err := json.Unmarshal(body, &answer); err != nil || status != http.StatusOK || len(answer) != 1 {
		t.Fatalf("status %d, %v: %s", status, err, body)
	}
	claims := jwt.MapClaims{}
	token, err := jwt.ParseWithClaims(answer["token"], claims, func(*jwt.Token) (any, error) { return a.key.Public(), nil },
		jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithExpirationRequired(), jwt.WithIssuedAt())
	if err != nil {
		t.Fatal(err)
	}
	kid := result.KeyID(a.key.Public().(ed25519.PublicKey))
	policyHash, err := a.fleet.Policy().Hash()
	if err != nil {
		t.Fatal(err)
	}
	for claim, want := range map[string]any{
		"iss": "urn:cocoon:verifier:" + kid, "x-ms-attestation-type": "tdxvm", "dbgstat": "disabled", "nonce": "of the caller",
		"cocoon_trust_class": policy.ClassTest, "cocoon_development": true, "cocoon_policy_sha256": policyHash.String(), "cocoon_tcb_status": "UpToDate",
		"tdx_report_data": hex.EncodeToString(sum256(c.data)) + strings.Repeat("0", 64), "tdx_td_attributes_debug": false,
	} {
		if claims[claim] != want {
			t.Errorf("%s is %v, want %v", claim, claims[claim], want)
		}
	}
	if m, _ := claims["x-ms-runtime"].(map[string]any); m["key"] != "k1" {
		t.Errorf("x-ms-runtime %v", claims["x-ms-runtime"])
	}
	if s, _ := claims["tdx_rtmr3"].(string); len(s) != 96 {
		t.Errorf("tdx_rtmr3 %q", s)
	}
	for _, claim := range []string{"cnf", "x-ms-compliance-status", "cocoon_manifest", "cocoon_tls_spki_sha256", "x-ms-inittime"} {
		if _, ok := claims[claim]; ok {
			t.Errorf("the token has %s", claim)
		}
	}
	cpu := claims["submods"].(map[string]any)["cpu0"].(map[string]any)
	if cpu["ear_status"] != string(result.Warning) || len(claims["submods"].(map[string]any)) != 1 {
		t.Errorf("submods %v", claims["submods"])
	}
	if life := claims["exp"].(float64) - claims["iat"].(float64); life <= 0 || life > result.MaxLifetime.Seconds() {
		t.Errorf("life of %v s", life)
	}
	// Nothing that reads verdicts takes the token for one.
	if _, err := result.VerifyEAR(token.Raw, result.EAROptions{Keys: []ed25519.PublicKey{a.key.Public().(ed25519.PublicKey)}, AllowDevelopment: true}); !fault.Has(err, "verdict.signature") {
		t.Errorf("as a verdict: %v", err)
	}
	h, err := digest.Parse256(claims["jti"].(string))
	if err != nil {
		t.Fatal(err)
	}
	found, err := a.log.Find(journal.ByEvidence, h, 2)
	if err != nil || len(found) != 1 || found[0].Entry.Verdict != digest.Sum256([]byte(token.Raw)) || !found[0].Entry.Manifest.IsZero() || !found[0].Entry.Cell.IsZero() {
		t.Fatalf("in the log: %+v, %v", found, err)
	}
	// And the log has said that it will be, at this place.
	raw, err := base64.StdEncoding.DecodeString(header.Get(wire.HeaderPromise))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := found[0].Entry.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := journal.OpenPromise(raw, a.log.Key()); err != nil || p.Index != found[0].Index || p.Leaf != leaf {
		t.Errorf("promised: %+v, %v", p, err)
	}
	var stored verifierv1.GetVerdictResponse
	call(t, a.server, verifierv1connect.VerifierServiceGetVerdictProcedure, &verifierv1.GetVerdictRequest{EvidenceSha256: h.String()}, &stored)
	if stored.Ear != token.Raw || stored.Promise != string(raw) {
		t.Errorf("by its jti: %v", &stored)
	}
}

func TestBinaryRuntimeDataUnderSHA512(t *testing.T) {
	a := newAttester(t, nil)
	c := a.challenge(t, verifierv1.Purpose_PURPOSE_ATTEST_TDX)
	status, _, body := a.post(bytes.NewReader(a.request(t, &attempt{kind: "Binary", data: string(c[:]) + "a key",
		hash: func(s string) []byte { h := sha512.Sum512([]byte(s)); return h[:] }})))
	if status != http.StatusOK {
		t.Errorf("status %d: %s", status, body)
	}
}

func TestTDsAreRefusedInAzuresShape(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, a *attester, c *attempt)
		server func(*server.Options)
		code   string
	}{
		"a challenge for an appraisal": {code: "nonce.challenge", change: func(t *testing.T, a *attester, c *attempt) {
			c.data = `{"nonce":"` + a.challenge(t, verifierv1.Purpose_PURPOSE_APPRAISE).String() + `"}`
		}},
		"no challenge of this service": {code: "nonce.challenge", change: func(_ *testing.T, _ *attester, c *attempt) {
			c.data = `{"nonce":"` + digest.Sum256(nil).String() + `"}`
		}},
		"foreign runtime data": {code: "tdx.report_data", change: func(_ *testing.T, _ *attester, c *attempt) {
			c.hash = func(string) []byte { return sum256("another's") }
		}},
		"a hash and more behind it": {code: "tdx.report_data", change: func(_ *testing.T, _ *attester, c *attempt) {
			c.hash = func(s string) []byte { return append(sum256(s), 1) }
		}},
		"other init-time data": {code: "tdx.mrconfigid", change: func(_ *testing.T, _ *attester, c *attempt) {
			c.member = map[string]any{"initTimeData": map[string]string{"data": "AAAA", "dataType": "Binary"}}
		}},
		"a tampered quote": {code: "tdx.quote.signature", change: func(_ *testing.T, _ *attester, c *attempt) { c.quote = func(q []byte) { q[48+328] ^= 1 } }},
		"what is no quote": {code: "tdx.quote.parse", change: func(_ *testing.T, _ *attester, c *attempt) { c.quote = func(q []byte) { q[0] = 9 } }},
		"a TD under debug": {code: "tdx.debug", change: func(_ *testing.T, _ *attester, c *attempt) { c.body = func(b []byte) { b[120] |= 1 } }},
		"no collateral":    {code: "dcap.collateral.missing", change: func(_ *testing.T, a *attester, _ *attempt) { a.collateral = json.RawMessage("null") }},
		"a rule of the policy's": {code: "policy.rule.site", server: func(o *server.Options) {
			p := *o.Policy
			p.Rules = []rules.Rule{{ID: "site", Expression: `measurements["mrtd"] == "00"`, Reason: "another firmware", Remedy: "none"}}
			o.Policy = &p
		}},
		"a rule over a manifest": {code: "policy.rule.site", server: func(o *server.Options) {
			p := *o.Policy
			p.Rules = []rules.Rule{{ID: "site", Expression: `manifest.version > 1`, Reason: "an old image", Remedy: "none"}}
			o.Policy = &p
		}},
		"a class that the policy does not accept": {code: "policy.trust_class", server: func(o *server.Options) {
			p := *o.Policy
			p.TrustClasses = []string{policy.ClassTDX}
			o.Policy = &p
		}},
		"no appraiser of TDX": {code: "evidence.type.unsupported", server: func(o *server.Options) { o.CPUs = map[string]appraise.CPU{} }},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAttester(t, c.server)
			try := a.fresh(t)
			if c.change != nil {
				c.change(t, a, try)
			}
			status, h, body := a.post(bytes.NewReader(a.request(t, try)))
			var p wire.Problem
			if err := json.Unmarshal(body, &p); err != nil || status != http.StatusBadRequest || h.Get("Content-Type") != "application/problem+json" || p.Result == nil {
				t.Fatalf("status %d, %v: %s", status, err, body)
			}
			for _, f := range p.Faults {
				if f.Code == c.code {
					return
				}
			}
			t.Errorf("%s is missing in %+v", c.code, p.Faults)
		})
	}
}

func TestAChallengeServesOneAttestation(t *testing.T) {
	a := newAttester(t, nil)
	body := a.request(t, a.fresh(t))
	if status, _, b := a.post(bytes.NewReader(body)); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, b)
	}
	if status, _, b := a.post(bytes.NewReader(body)); status != http.StatusBadRequest || !strings.Contains(string(b), "used before") {
		t.Errorf("again: status %d: %s", status, b)
	}
	// Nor does one whose attempt was refused.
	c := a.fresh(t)
	c.quote = func(q []byte) { q[48+328] ^= 1 }
	a.post(bytes.NewReader(a.request(t, c)))
	c.quote = nil
	if status, _, b := a.post(bytes.NewReader(a.request(t, c))); status != http.StatusBadRequest || !strings.Contains(string(b), "used before") {
		t.Errorf("after a refusal: status %d: %s", status, b)
	}
}

func TestAttestationsThatAreNotReadAreProblems(t *testing.T) {
	a := newAttester(t, nil)
	for name, c := range map[string]struct {
		body   io.Reader
		status int
		code   string
	}{
		"too large": {strings.NewReader(`{"quote":"` + strings.Repeat("A", 4<<20) + `"}`), http.StatusRequestEntityTooLarge, "request.too_large"},
		"not JSON":  {strings.NewReader("x"), http.StatusBadRequest, "request.body"},
	} {
		status, _, b := a.post(c.body)
		var p wire.Problem
		if err := json.Unmarshal(b, &p); err != nil || status != c.status || p.Code != c.code {
			t.Errorf("%s: status %d, %v: %s", name, status, err, b)
		}
	}
	r := httptest.NewRequest(http.MethodPost, wire.PathMAA, strings.NewReader("{}"))
	w := httptest.NewRecorder()
	a.server.ServeHTTP(w, r)
	if w.Code != http.StatusUnsupportedMediaType {
		t.Errorf("without a type: status %d", w.Code)
	}
	limited := newAttester(t, func(o *server.Options) { o.PerSecond, o.Burst = 1e-9, 1 })
	limited.post(strings.NewReader("{}"))
	if status, h, _ := limited.post(strings.NewReader("{}")); status != http.StatusTooManyRequests || h.Get("Retry-After") == "" {
		t.Errorf("the second request: status %d", status)
	}
	full := newAttester(t, func(o *server.Options) { o.Journal = refusing{} })
	if status, _, b := full.post(bytes.NewReader(full.request(t, full.fresh(t)))); status != http.StatusServiceUnavailable || strings.Contains(string(b), "eyJ") {
		t.Errorf("without a journal: status %d: %s", status, b)
	}
}
