package attest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/enclave/keys"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// quoter is a machine that signs by hashing, so that a test can tell what was
// signed.
type quoter struct{ quotes atomic.Int64 }

func (q *quoter) CPU(_ context.Context, claims *evidence.Claims) (*evidence.CPU, error) {
	q.quotes.Add(1)
	data, err := claims.QualifyingData()
	return &evidence.CPU{Type: evidence.TypeTPM, Quote: data[:], CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{evidence.LatchEvent()}}, err
}

// verifier is a verifier service whose answers a test sets.
type verifier struct {
	clock     func() time.Time
	life      time.Duration
	verifyErr error
	change    func(*client.Verdict)
	used      map[string]bool // evidence whose challenge is used up
	n         byte
	mu        sync.Mutex // for verifyErr and n
}

func (v *verifier) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.verifyErr = err
}

func (v *verifier) Challenge(context.Context) (*client.Challenge, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.n++
	return &client.Challenge{Challenge: digest.Sum256([]byte{v.n})}, nil
}
func (v *verifier) VerifyBytes(_ context.Context, ev []byte) (*client.Verdict, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verifyErr != nil {
		return nil, v.verifyErr
	}
	if v.used[string(ev)] {
		return nil, fault.New(fault.ExitRefused, "nonce", "", "the challenge was used before")
	}
	exp := v.clock().Add(v.life)
	out := &client.Verdict{Cell: "cell", EAR: jwt(fmt.Sprintf(`{"exp":%d,"iat":%d}`, exp.Unix(), v.clock().Unix())), Result: &result.Result{
		Accepted: true, TrustClass: "vtpm", NotAfter: exp, EvidenceSHA256: sha256.Sum256(ev),
		Submods:  map[string]*result.Submod{"cpu0": {Status: result.Affirming}, "image": {Status: result.Warning}},
		Manifest: &result.ManifestRef{SHA256: digest.Sum256([]byte("manifest"))},
	}}
	if v.change != nil {
		v.change(out)
	}
	return out, nil
}

func jwt(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".AA"
}

func config() *evidence.Config {
	v := evidence.Verity{Root: digest.Sum256([]byte("root")), DataBlocks: 1}
	return &evidence.Config{Version: 1, Role: evidence.RoleWorker, Model: evidence.ConfigModel{Name: "m", Verity: v},
		Engine: evidence.ConfigEngine{Kind: evidence.EngineLlamaServer, Verity: v, Args: []string{}}, GPUs: evidence.ConfigGPUs{Mode: "none"}}
}

func collector(t *testing.T) (*Collector, *keys.Keys, *quoter) {
	t.Helper()
	k, err := keys.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	q := &quoter{}
	return &Collector{
		Identity: Identity{Config: config(), SPKI: k.SPKI, ReceiptKey: k.ReceiptPublic(), Payout: "EQpayout"},
		Provider: q, GPUs: NoGPUs{}, Queue: &Queue{},
	}, k, q
}

func TestCollectBindsEverythingToTheQuote(t *testing.T) {
	c, k, _ := collector(t)
	b, a := digest.Sum256([]byte("b")), digest.Sum256([]byte("a"))
	ev, err := c.Collect(context.Background(), []digest.SHA256{b, a, b})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := ev.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if ev, err = evidence.Parse(doc); err != nil {
		t.Fatalf("its own evidence does not parse: %v", err)
	}
	if len(ev.NonceInputs) != 2 {
		t.Errorf("nonce inputs are %v, want them sorted and once", ev.NonceInputs)
	}
	nonce, err := evidence.NonceOf(ev.NonceInputs)
	if err != nil || ev.Claims.Nonce != nonce {
		t.Errorf("nonce is %s, want %s (%v)", ev.Claims.Nonce, nonce, err)
	}
	hash, _ := c.Config.Hash()
	gpus, _ := evidence.GPUHash(nil)
	want := evidence.Claims{TLSSPKISHA256: k.SPKI, ReceiptKey: k.ReceiptPublic(), Payout: "EQpayout", ConfigSHA256: hash,
		Model: evidence.Model{Name: "m", VerityRoot: c.Config.Model.Verity.Root}, GPUEvidenceSHA256: gpus, Nonce: nonce}
	if ev.Claims != want {
		t.Errorf("claims are %+v, want %+v", ev.Claims, want)
	}
	data, _ := want.QualifyingData()
	if !slices.Equal(ev.CPU.Quote, data[:]) {
		t.Error("the quote is not over the claims")
	}
	if len(ev.CPU.RuntimeEvents) != 1 || ev.CPU.Type != evidence.TypeTPM {
		t.Errorf("cpu evidence is %+v", ev.CPU)
	}
}

// TestTheRecordOfTheBootIsBoundToTheQuote as it stands when evidence is
// collected, and to the GPUs' nonce.
func TestTheRecordOfTheBootIsBoundToTheQuote(t *testing.T) {
	c, _, _ := collector(t)
	record := evidence.Stages{Version: evidence.StagesVersion, List: []evidence.Stage{{Name: "evidence", Status: evidence.StageRunning}}}
	c.Stages = func() *evidence.Stages { s := record; return &s }
	nonces := map[[32]byte]bool{}
	for _, took := range []int64{0, 5, 6} {
		if took > 0 {
			record.List = []evidence.Stage{{Name: "evidence", Status: evidence.StageOK, MS: took}, {Name: "serve", Status: evidence.StageRunning}}
		}
		ev, err := c.Collect(context.Background(), []digest.SHA256{digest.Sum256([]byte("a"))})
		if err != nil {
			t.Fatal(err)
		}
		doc, err := ev.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if ev, err = evidence.Parse(doc); err != nil {
			t.Fatalf("its own evidence does not parse: %v", err)
		}
		want, err := record.Hash()
		if err != nil || ev.Claims.StagesSHA256 == nil || *ev.Claims.StagesSHA256 != want || !slices.Equal(ev.Stages.List, record.List) {
			t.Errorf("claims %v of record %v, want %s of %v, %v", ev.Claims.StagesSHA256, ev.Stages, want, record, err)
		}
		if data, _ := ev.Claims.QualifyingData(); !slices.Equal(ev.CPU.Quote, data[:]) {
			t.Error("the quote is not over the claims")
		}
		nonce, err := ev.Claims.GPUNonce()
		if err != nil {
			t.Fatal(err)
		}
		nonces[nonce] = true
	}
	if len(nonces) != 3 {
		t.Errorf("%d nonces for the GPUs of three records", len(nonces))
	}
}

// board shows evidence of so many devices.
type board int

func (b board) Collect(context.Context, [32]byte) ([]evidence.GPU, error) {
	out := make([]evidence.GPU, b)
	for i := range out {
		out[i] = evidence.GPU{Report: []byte{byte(i)}, Chain: [][]byte{{1}}}
	}
	return out, nil
}

func TestABoardInProtectedPCIeShowsItsSwitches(t *testing.T) {
	for devices, good := range map[board]bool{8: false, 11: false, 12: true, 13: false} {
		c, _, _ := collector(t)
		c.Config.GPUs, c.GPUs = evidence.ConfigGPUs{Count: 8, Mode: evidence.GPUModePPCIE}, devices
		ev, err := c.Collect(context.Background(), []digest.SHA256{digest.Sum256(nil)})
		if good != (err == nil) || good && len(ev.GPUs) != 12 {
			t.Errorf("%d devices: %v", devices, err)
		}
	}
}

func TestAMachineWithoutTheGPUsOfItsConfigHasNoEvidence(t *testing.T) {
	c, _, q := collector(t)
	c.Config.GPUs = evidence.ConfigGPUs{Count: 1, Mode: "on"}
	if _, err := c.Collect(context.Background(), []digest.SHA256{{1}}); err == nil || q.quotes.Load() != 0 {
		t.Errorf("got %v after %d quotes", err, q.quotes.Load())
	}
}

// keeper returns a Keeper at a fixed time.
// start is when these tests begin.
var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func keeper(t *testing.T, v *verifier) (*Keeper, *time.Time, *[]Current) {
	t.Helper()
	c, k, _ := collector(t)
	now := start
	changes := &[]Current{}
	clock := func() time.Time { return now }
	v.clock = clock
	return NewKeeper(Options{Collector: c, Verifier: v, TLSKey: k.TLS, Clock: clock, Log: slog.New(slog.DiscardHandler),
		OnChange: func(c Current) { *changes = append(*changes, c) }}), &now, changes
}

func submit(t *testing.T, k *Keeper) error {
	t.Helper()
	doc, err := k.Collect(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return k.Submit(context.Background(), doc)
}

func TestNothingIsInForceBeforeAVerdict(t *testing.T) {
	k, _, _ := keeper(t, &verifier{life: time.Hour})
	if _, err := k.Document(); !fault.Has(err, CodeNoVerdict) {
		t.Errorf("document: %v", err)
	}
	if _, err := k.Certificate(); !fault.Has(err, CodeNoVerdict) {
		t.Errorf("certificate: %v", err)
	}
}

func TestAPositiveVerdictComesIntoForceAndExpires(t *testing.T) {
	v := &verifier{life: 30 * time.Minute}
	k, now, changes := keeper(t, v)
	if err := submit(t, k); err != nil {
		t.Fatal(err)
	}
	doc, err := k.Document()
	if err != nil || doc.Verdict == "" || doc.VerdictCell != "cell" {
		t.Fatal(err)
	}
	cert, err := k.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ratls.EvidenceFrom(cert.Leaf); err != nil || string(got) != string(doc.Evidence) {
		t.Errorf("the certificate carries other evidence (%v)", err)
	}
	cur := (*changes)[0]
	if cur.Status != "warning" || cur.Class != "vtpm" || !cur.Expires.Equal(now.Add(30*time.Minute)) || cur.Manifest != digest.Sum256([]byte("manifest")) {
		t.Errorf("in force is %+v", cur)
	}
	if !cert.Leaf.NotAfter.Equal(cur.Expires) {
		t.Errorf("the certificate lives until %s, the verdict until %s", cert.Leaf.NotAfter, cur.Expires)
	}
	*now = now.Add(30 * time.Minute)
	if _, err := k.Current(); !fault.Has(err, CodeExpired) {
		t.Errorf("after its time: %v", err)
	}
}

func TestNoVerdictIsReliedOnForMoreThanAnHour(t *testing.T) {
	k, now, changes := keeper(t, &verifier{life: 24 * time.Hour})
	if err := submit(t, k); err != nil {
		t.Fatal(err)
	}
	if got := (*changes)[0].Expires; !got.Equal(now.Add(time.Hour)) {
		t.Errorf("expires %s", got)
	}
}

func TestVerdictsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*client.Verdict)
		code   string
	}{
		{"not accepted", func(v *client.Verdict) { v.Result.Accepted = false }, CodeRefused},
		{"no result", func(v *client.Verdict) { v.Result = nil }, CodeRefused},
		{"no verdict", func(v *client.Verdict) { v.EAR = "" }, CodeRefused},
		{"about other evidence", func(v *client.Verdict) { v.Result.EvidenceSHA256[0] ^= 1 }, CodeForeign},
		{"no manifest", func(v *client.Verdict) { v.Result.Manifest = nil }, CodeRefused},
		{"no JWT", func(v *client.Verdict) { v.EAR = "a.b" }, CodeRefused},
		{"no base64", func(v *client.Verdict) { v.EAR = "a.!.c" }, CodeRefused},
		{"no expiry", func(v *client.Verdict) { v.EAR = jwt(`{}`) }, CodeRefused},
		{"no time of issue", func(v *client.Verdict) { v.EAR = jwt(`{"exp":1}`) }, CodeRefused},
		{"expired", func(v *client.Verdict) { v.EAR = jwt(fmt.Sprintf(`{"exp":1,"iat":%d}`, start.Unix())) }, CodeExpired},
		{"made a year ago, by this machine's clock", func(v *client.Verdict) {
			v.EAR = jwt(fmt.Sprintf(`{"exp":%d,"iat":%d}`, start.AddDate(-1, 0, 0).Add(time.Hour).Unix(), start.AddDate(-1, 0, 0).Unix()))
		}, CodeClock},
		{"made a year from now, by this machine's clock", func(v *client.Verdict) {
			v.EAR = jwt(fmt.Sprintf(`{"exp":%d,"iat":%d}`, start.AddDate(1, 0, 0).Add(time.Hour).Unix(), start.AddDate(1, 0, 0).Unix()))
		}, CodeClock},
		{"collateral expired", func(v *client.Verdict) { v.Result.NotAfter = time.Unix(1, 0) }, CodeExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &verifier{life: time.Hour}
			k, _, _ := keeper(t, v)
			if err := submit(t, k); err != nil {
				t.Fatal(err)
			}
			v.change = c.change
			if err := submit(t, k); !fault.Has(err, c.code) {
				t.Errorf("got %v, want %s", err, c.code)
			}
			if _, err := k.Current(); !fault.Has(err, CodeNoVerdict) {
				t.Errorf("the old verdict stays in force: %v", err)
			}
		})
	}
}

func TestARefusalEndsServiceAndAnAbsenceDoesNot(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error
		stays bool
	}{
		{"refused for the evidence", fault.New(fault.ExitRefused, "tpm.quote.signature", "", "x"), false},
		{"refused by policy", fault.New(fault.ExitPolicy, "manifest.revoked", "", "x"), false},
		{"not understood", fault.New(fault.ExitParse, "evidence.parse", "", "x"), false},
		{"away", fault.New(fault.ExitNetwork, "verifier.unreachable", "", "x"), true},
		{"an error without a code", errors.New("x"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &verifier{life: time.Hour}
			k, _, _ := keeper(t, v)
			if err := submit(t, k); err != nil {
				t.Fatal(err)
			}
			v.verifyErr = c.err
			if err := submit(t, k); !errors.Is(err, c.err) {
				t.Errorf("got %v", err)
			}
			if _, err := k.Current(); (err == nil) != c.stays {
				t.Errorf("in force: %v, want %v", err == nil, c.stays)
			}
		})
	}
}

// TestRenewal runs two hours of a keeper's life on a fake clock.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &verifier{life: 30 * time.Minute, clock: time.Now}
		c, keys, q := collector(t)
		var changes atomic.Int64
		k := NewKeeper(Options{Collector: c, Verifier: v, TLSKey: keys.TLS, Clock: time.Now, Log: slog.New(slog.DiscardHandler),
			OnChange: func(Current) { changes.Add(1) }})
		if err := submit(t, k); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		go k.Run(ctx)
		for range 120 {
			time.Sleep(time.Minute)
			if _, err := k.Current(); err != nil {
				t.Fatalf("a gap: %v", err)
			}
		}
		// The last minute is also a renewal's: let that one end before counting.
		synctest.Wait()
		if n := changes.Load(); n < 5 || n > 8 || q.quotes.Load() != n {
			t.Errorf("%d verdicts and %d quotes in two hours, want one about every 20 minutes", n, q.quotes.Load())
		}
		v.fail(fault.New(fault.ExitNetwork, "verifier.unreachable", "", "x"))
		before := q.quotes.Load()
		time.Sleep(2 * time.Hour)
		if _, err := k.Current(); !fault.Has(err, CodeExpired) {
			t.Errorf("a verdict outlived its time: %v", err)
		}
		if tries := q.quotes.Load() - before; tries < 10 || tries > 60 {
			t.Errorf("%d quotes in two hours without a verifier", tries)
		}
		v.fail(nil)
		time.Sleep(maxInterval + time.Second)
		if _, err := k.Current(); err != nil {
			t.Errorf("no verdict after the verifier came back: %v", err)
		}
		cancel()
		synctest.Wait()
	})
}

func TestFaultsOfARefusalAreAllKept(t *testing.T) {
	v := &verifier{life: time.Hour, verifyErr: errors.Join(
		fault.New(fault.ExitPolicy, "pcr.9", "", "x"), fault.New(fault.ExitPolicy, "model.root", "", "y"))}
	k, _, _ := keeper(t, v)
	if err := submit(t, k); len(fault.All(err)) != 2 || !strings.Contains(err.Error(), "verdict") {
		t.Errorf("got %v", err)
	}
}
