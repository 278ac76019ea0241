package ledger_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/client"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/devnettest"
	"cocoon/contracts/job"
	contracts "cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/contracts/registry"
	"cocoon/contracts/tvm"
	"cocoon/enclave/attest"
	"cocoon/enclave/keys"
	"cocoon/enclave/ledger"
	"cocoon/enclave/meter"
	"cocoon/enclave/serve"
	"cocoon/gateway"
	"cocoon/gateway/tunnel"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
	"cocoon/measurements/digest"
	"cocoon/ratls"
	verifierclient "cocoon/verifier/client"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

func hashOf(s string) [32]byte { return sha256.Sum256([]byte(s)) }

func keyOf(name string) ed25519.PrivateKey {
	seed := hashOf("models test " + name)
	return ed25519.NewKeyFromSeed(seed[:])
}

// market is a machine of two models on a devnet: the enclave's own keepers,
// ledger and server behind a gateway. Its CPU's signature and the appraisal of
// it alone are made up.
type market struct {
	t        *testing.T
	ctx      context.Context
	net      *devnet.Devnet
	ledger   *contracts.Ledger
	registry toncell.Address
	payout   toncell.Address
	gateway  string
	keys     *keys.Keys
	verifier ed25519.PrivateKey
}

func (m *market) ok(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// CPU implements attest.Provider.
func (m *market) CPU(_ context.Context, c *evidence.Claims) (*evidence.CPU, error) {
	data, err := c.QualifyingData()
	return &evidence.CPU{Type: evidence.TypeTPM, Quote: data[:], CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{}}, err
}

// Challenge implements attest.Verifier.
func (m *market) Challenge(context.Context) (*verifierclient.Challenge, error) {
	var c digest.SHA256
	_, err := rand.Read(c[:])
	return &verifierclient.Challenge{Challenge: c}, err
}

// VerifyBytes implements attest.Verifier: it signs the cell that package
// verifier/server makes of accepted evidence.
func (m *market) VerifyBytes(_ context.Context, doc []byte) (*verifierclient.Verdict, error) {
	ev, hash, err := evidence.ParseHashed(doc)
	if err != nil {
		return nil, err
	}
	c := verdictcell.Common{
		GlobalID: devnet.GlobalID, Registry: m.registry, TrustClass: verdictcell.VTPM, ReceiptKey: ev.Claims.ReceiptKey, Payout: m.payout,
		Manifest: hashOf("manifest"), ModelRoot: ev.Claims.Model.VerityRoot, PolicyHash: hashOf("policy"), EvidenceSHA256: hash,
	}
	now := time.Now()
	cellHash, err := c.Hash()
	m.ok(err)
	sig, err := verdictcell.Sign(m.verifier, cellHash, uint64(now.Add(-time.Minute).Unix()), uint64(now.Add(30*time.Minute).Unix()))
	m.ok(err)
	v, err := verdictcell.New(c, sig)
	m.ok(err)
	text, err := v.MarshalText()
	m.ok(err)
	ear := fmt.Sprintf(`{"iat":%d,"exp":%d}`, now.Unix(), now.Add(30*time.Minute).Unix())
	return &verifierclient.Verdict{EAR: "e30." + base64.RawURLEncoding.EncodeToString([]byte(ear)) + ".AA", Cell: string(text), Result: &result.Result{
		Accepted: true, TrustClass: "vtpm", NotAfter: now.Add(30 * time.Minute), EvidenceSHA256: hash, Manifest: &result.ManifestRef{SHA256: hashOf("manifest")},
	}}, nil
}

// engineOf answers for a model with one prompt token and nine others.
type engineOf string

// RoundTrip implements http.RoundTripper.
func (e engineOf) RoundTrip(r *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil || !bytes.Contains(b, []byte(`"model":"`+string(e)+`"`)) {
		return nil, fmt.Errorf("%s was asked %s: %w", e, b, err)
	}
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(`{"choices":[{"message":{"content":"I am ` + string(e) + `"}}],"usage":{"prompt_tokens":1,"completion_tokens":9}}`))}, nil
}

// prices of the models, in nanoton per million tokens.
var prices = map[string]uint64{"a": 1_000_000, "b": 3_000_000}

func newMarket(t *testing.T) *market {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	m := &market{t: t, ctx: ctx, verifier: keyOf("verifier"), payout: toncell.Address{Hash: hashOf("payout")}}
	engine, err := tvm.Open(ctx, tvm.Options{})
	m.ok(err)
	t.Cleanup(func() { _ = engine.Close(context.Background()) })
	m.net = devnettest.Start(t, devnet.Options{TVM: engine})
	m.ledger = contracts.New(devnettest.Open(t, m.net, engine), nil)

	owner, err := m.ledger.Chain().Wallet(ctx, keyOf("owner"))
	m.ok(err)
	m.ok(m.net.Faucet(ctx, owner.Address(), (100 * coin.TON).Big()))
	s := registry.New(registry.NewOwners(1, keyOf("owner").Public().(ed25519.PublicKey)), true)
	s.AddVerifier(m.verifier.Public().(ed25519.PublicKey), m.net.Now())
	s.Manifests[hashOf("manifest")] = registry.Manifest{State: registry.Active}
	s.Policies[hashOf("policy")] = m.net.Now()
	for name := range prices {
		s.Models[hashOf(name)] = registry.Model{NameHash: hashOf(name), Active: true}
	}
	m.registry, err = m.ledger.DeployRegistry(ctx, owner, s, coin.TON)
	m.ok(err)
	m.boot()
	return m
}

// boot is what the supervisor does after its engines are up.
func (m *market) boot() {
	m.t.Helper()
	var err error
	m.keys, err = keys.New(rand.Reader)
	m.ok(err)
	model := func(name string) evidence.ConfigModel {
		return evidence.ConfigModel{Name: name, Verity: evidence.Verity{Root: hashOf(name), DataBlocks: 1}}
	}
	config := &evidence.Config{Version: 1, Role: evidence.RoleWorker, Model: model("a"), Models: []evidence.ConfigModel{model("b")},
		Engine: evidence.ConfigEngine{Kind: evidence.EngineLlamaServer, Verity: model("engine").Verity, Args: []string{}},
		GPUs:   evidence.ConfigGPUs{Mode: evidence.GPUModeNone}, NetworkID: devnet.GlobalID, Registry: m.registry.String()}
	m.ok(config.Validate())
	log := slog.New(slog.DiscardHandler)
	keepers := attest.NewKeepers(attest.Options{
		Collector: &attest.Collector{
			Identity: attest.Identity{Config: config, SPKI: m.keys.SPKI, ReceiptKey: m.keys.ReceiptPublic(), Payout: m.payout.String()},
			Provider: m, GPUs: attest.NoGPUs{}, Queue: &attest.Queue{},
		}, Verifier: m, TLSKey: m.keys.TLS, Clock: time.Now, Log: log,
	}, config.ServedModels(), nil)
	docs, err := keepers.Collect(m.ctx)
	m.ok(err)
	m.ok(keepers.Submit(m.ctx, docs))
	var models []ledger.Model
	var offers []tunnel.Offer
	for _, c := range config.ServedModels() {
		models = append(models, ledger.Model{Name: c.Name, Root: receipt.Hash(c.Verity.Root), Price: prices[c.Name]})
		offers = append(offers, tunnel.Offer{Name: c.Name, Price: prices[c.Name]})
	}
	books := ledger.New(ledger.Options{
		Chain: m.ledger, GlobalID: devnet.GlobalID, Registry: m.registry, Models: models, Payout: m.payout, Key: m.keys.Receipt,
		Dir: m.t.TempDir(), Clock: m.net.Now, Manifest: func(string) (receipt.Hash, error) { return hashOf("manifest"), nil },
	})
	m.t.Cleanup(func() { m.ok(books.Close()) })
	server, err := serve.New(serve.Options{
		Model: "a", Created: time.Now(), Engine: engineOf("a"), Further: []serve.Model{{Name: "b", Engine: engineOf("b")}},
		Attestation: ratls.Handler(keepers.Document, m.keys.Receipt), Gate: keepers.Err, Ledger: books, Meter: &meter.Meter{}, Log: log,
	})
	m.ok(err)

	cert, err := gateway.SelfSigned(time.Now())
	m.ok(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	m.ok(err)
	ctx, cancel := context.WithCancel(context.Background())
	m.t.Cleanup(cancel)
	g := gateway.New(gateway.Options{Certificate: cert})
	go g.Serve(ctx, ln)
	m.gateway = ln.Addr().String()
	tun, err := tunnel.Dial(m.ctx, m.gateway, m.keys.Receipt, tunnel.State{Models: offers})
	m.ok(err)
	m.t.Cleanup(func() { tun.Close() })
	go server.Serve(ctx, tls.NewListener(tun, ratls.ServerConfig(keepers.Certificate)), 0)
	for len(g.Workers()) == 0 {
		m.ok(m.ctx.Err())
		time.Sleep(5 * time.Millisecond)
	}
}

// tenant is one client with a job for one model.
type tenant struct {
	client  *client.Client
	peer    *client.Peer
	cell    verdictcell.Verdict
	job     toncell.Address
	payment *client.Payment
}

// connect verifies the worker for a model.
func (m *market) connect(model string) *tenant {
	m.t.Helper()
	c, err := client.New(client.Options{Gateway: m.gateway, Model: model, Appraise: func(*evidence.Evidence, digest.SHA256) error { return nil }})
	m.ok(err)
	tn := &tenant{client: c}
	tn.peer, err = c.Connect(m.ctx)
	m.ok(err)
	m.ok(tn.cell.UnmarshalText([]byte(tn.peer.VerdictCell)))
	return tn
}

// open opens a job for the tenant's model.
func (m *market) open(tn *tenant, cap uint64) {
	m.t.Helper()
	name := tn.peer.Evidence.Claims.Model.Name
	wallet, err := m.ledger.Chain().Wallet(m.ctx, keyOf("tenant of "+name))
	m.ok(err)
	m.ok(m.net.Faucet(m.ctx, wallet.Address(), (10 * coin.TON).Big()))
	at, err := toncell.FromAddr(wallet.Address())
	m.ok(err)
	terms := job.Terms{Client: at, ClientKey: job.Hash(keyOf("vouchers of " + name).Public().(ed25519.PublicKey)), Payout: m.payout, Registry: m.registry,
		ModelRoot: job.Hash(tn.peer.Evidence.Claims.Model.VerityRoot), PolicyHash: hashOf("policy"), PriceCap: cap, CloseDelay: time.Hour, Salt: hashOf("salt of " + name)}
	tn.job, _, err = m.ledger.OpenJob(m.ctx, wallet, &terms, coin.TON)
	m.ok(err)
}

func (m *market) release(tn *tenant, v *verdictcell.Verdict) error {
	wallet, err := m.ledger.Chain().Wallet(m.ctx, keyOf("owner"))
	m.ok(err)
	_, _, err = m.ledger.Release(m.ctx, wallet, tn.job, v)
	return err
}

func (m *market) pay(tn *tenant, peer *client.Peer) (*client.Payment, error) {
	name := tn.peer.Evidence.Claims.Model.Name
	return client.OpenPayment(m.ctx, client.PaymentOptions{Ledger: m.ledger, GlobalID: devnet.GlobalID, Job: tn.job, Key: keyOf("vouchers of " + name),
		Path: filepath.Join(m.t.TempDir(), "receipts.log")}, peer, hashOf("manifest"), tn.client.Transport())
}

// ask sends a paid request and returns status and answer.
func (m *market) ask(tn *tenant, model string) (int, string) {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.ctx, http.MethodPost, "https://enclave/v1/chat/completions",
		strings.NewReader(`{"model":"`+model+`","messages":[{"role":"user","content":"who?"}],"max_tokens":16}`))
	m.ok(err)
	rsp, err := tn.payment.RoundTrip(req)
	m.ok(err)
	b, err := io.ReadAll(rsp.Body)
	m.ok(err)
	m.ok(rsp.Body.Close())
	return rsp.StatusCode, string(b)
}

// TestTwoModelsOfOneMachineAreEachPaidFor: each by jobs of its own, released by
// its own verdict, at its own price, with receipts of its own root; and by no
// job of the other.
func TestTwoModelsOfOneMachineAreEachPaidFor(t *testing.T) {
	m := newMarket(t)
	a, b := m.connect("a"), m.connect("b")
	if a.cell.Common.ReceiptKey != b.cell.Common.ReceiptKey || a.cell.Common.EvidenceSHA256 == b.cell.Common.EvidenceSHA256 {
		t.Fatalf("verdicts over %x and %x", a.cell.Common.EvidenceSHA256, b.cell.Common.EvidenceSHA256)
	}
	m.open(a, prices["a"])
	m.open(b, prices["b"])
	if err := m.release(a, &b.cell); !fault.Has(err, "contract.verdict_wrong_terms") {
		t.Errorf("the verdict for b on a job for a: %v", err)
	}
	for _, tn := range []*tenant{a, b} {
		m.ok(m.release(tn, &tn.cell))
	}
	// A client that holds the machine's other evidence does not begin to pay.
	if _, err := m.pay(b, a.peer); !fault.Has(err, "job.wrong_model") {
		t.Errorf("a job for b, and evidence of a: %v", err)
	}
	var err error
	for _, tn := range []*tenant{a, b} {
		tn.payment, err = m.pay(tn, tn.peer)
		m.ok(err)
		t.Cleanup(func() { _ = tn.payment.Close() })
	}
	for _, tn := range []*tenant{a, b} {
		own, root := tn.peer.Evidence.Claims.Model.Name, tn.peer.Evidence.Claims.Model.VerityRoot
		other := map[string]string{"a": "b", "b": "a"}[own]
		for range 2 { // before the book is open, and after
			if status, body := m.ask(tn, other); status != http.StatusPaymentRequired || !strings.Contains(body, `"job.wrong_model"`) {
				t.Errorf("a job for %s paid for %s: %d %s", own, other, status, body)
			}
			if status, body := m.ask(tn, own); status != http.StatusOK || !strings.Contains(body, "I am "+own) {
				t.Fatalf("%s: %d %s", own, status, body)
			}
		}
		m.ok(tn.payment.Wait(m.ctx))
		last, voucher, err := tn.payment.Last()
		m.ok(err)
		owed := coin.Nano(2 * 10 * prices[own] / 1_000_000)
		if r := last.Receipt; r.ModelRoot != receipt.Hash(root) || r.Cumulative != owed || r.Price.Max() != prices[own] || r.Seq != 2 {
			t.Errorf("the last receipt for %s: %+v", own, r)
		}
		wallet, err := m.ledger.Chain().Wallet(m.ctx, keyOf("owner"))
		m.ok(err)
		red, err := m.ledger.Redeem(m.ctx, wallet, voucher)
		m.ok(err)
		if red.Worker != owed {
			t.Errorf("paid for %s: %s of %s", own, red.Worker, owed)
		}
	}
	// What a verifier has signed for such a machine convicts it of nothing.
	if _, _, err := registry.Slash(0, []ed25519.PublicKey{m.verifier.Public().(ed25519.PublicKey)}, &a.cell, &b.cell); err != registry.ErrNoContradiction {
		t.Errorf("the verifier is accused: %v", err)
	}
}

// TestAPriceIsOfItsModel: a job that would pay for the cheap one is too cheap for
// the other.
func TestAPriceIsOfItsModel(t *testing.T) {
	m := newMarket(t)
	b := m.connect("b")
	m.open(b, prices["a"])
	m.ok(m.release(b, &b.cell))
	var err error
	b.payment, err = m.pay(b, b.peer)
	m.ok(err)
	defer b.payment.Close()
	if status, body := m.ask(b, "b"); status != http.StatusPaymentRequired || !strings.Contains(body, `"job.price_cap"`) {
		t.Errorf("%d %s", status, body)
	}
}
