package attest

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/syncbuf"
	"cocoon/internal/verdictcell"
	"cocoon/measurements/digest"
	"cocoon/ratls"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
)

// keepersOf returns keepers of models m and n.
func keepersOf(t *testing.T, v *verifier) (*Keepers, *quoter, *[]string) {
	t.Helper()
	c, k, q := collector(t)
	c.Config.Models = []evidence.ConfigModel{{Name: "n", Verity: evidence.Verity{Root: digest.Sum256([]byte("other root")), DataBlocks: 1}}}
	v.clock = time.Now
	changes := &[]string{}
	return NewKeepers(Options{Collector: c, Verifier: v, TLSKey: k.TLS, Clock: time.Now, Log: slog.New(slog.DiscardHandler)},
		c.Config.ServedModels(), func(model string, _ Current) { *changes = append(*changes, model) }), q, changes
}

// TestEachModelHasEvidenceOfItsOwn: a quote, a challenge and claims that name it,
// all for one set of keys. Verdicts over one evidence that differed in the model
// would convict the verifier; these do not.
func TestEachModelHasEvidenceOfItsOwn(t *testing.T) {
	v := &verifier{life: time.Hour}
	k, q, changes := keepersOf(t, v)
	if err := k.Err(); !fault.Has(err, CodeNoVerdict) {
		t.Errorf("before a verdict: %v", err)
	}
	docs, err := k.Collect(t.Context())
	if err != nil || len(docs) != 2 || q.quotes.Load() != 2 || v.n != 2 {
		t.Fatalf("%d pieces of evidence, %d quotes, %d challenges, %v", len(docs), q.quotes.Load(), v.n, err)
	}
	if err := k.Submit(t.Context(), docs); err != nil {
		t.Fatal(err)
	}
	if len(*changes) != 2 || (*changes)[0] != "m" || (*changes)[1] != "n" || k.Err() != nil {
		t.Errorf("verdicts for %v, %v", *changes, k.Err())
	}
	var cells []*verdictcell.Verdict
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	now := uint64(time.Now().Unix())
	for _, name := range []string{"m", "n"} {
		doc, err := k.Document(name)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := evidence.Parse(doc.Evidence)
		if err != nil || ev.Claims.Model.Name != name {
			t.Fatalf("evidence for %s names %s, %v", name, ev.Claims.Model.Name, err)
		}
		c := verdictcell.Common{GlobalID: -3, TrustClass: verdictcell.TDX, ReceiptKey: ev.Claims.ReceiptKey, ModelRoot: ev.Claims.Model.VerityRoot, EvidenceSHA256: digest.Sum256(doc.Evidence)}
		hash, err := c.Hash()
		if err != nil {
			t.Fatal(err)
		}
		s, err := verdictcell.Sign(key, hash, now, now+3600)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := verdictcell.New(c, s)
		if err != nil {
			t.Fatal(err)
		}
		cells = append(cells, signed)
	}
	if a, b := cells[0].Common, cells[1].Common; a.ReceiptKey != b.ReceiptKey || a.ModelRoot == b.ModelRoot || a.EvidenceSHA256 == b.EvidenceSHA256 {
		t.Errorf("cells %+v and %+v", a, b)
	}
	keys := []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	if _, _, err := registry.Slash(0, keys, cells[0], cells[1]); !errors.Is(err, registry.ErrNoContradiction) {
		t.Errorf("the verifier is accused for them: %v", err)
	}
	if first, err := k.Document(""); err != nil || digest.Sum256(first.Evidence) != cells[0].Common.EvidenceSHA256 {
		t.Errorf("without a name: %v", err)
	}
	if _, err := k.Document("x"); !errors.Is(err, ratls.ErrNoModel) {
		t.Errorf("a model that is not there: %v", err)
	}
	if cert, err := k.Certificate(); err != nil || cert == nil {
		t.Errorf("certificate: %v", err)
	}
}

// TestNothingIsServedWhileOneModelIsRefused, nor is one asked for again that has
// its verdict.
func TestNothingIsServedWhileOneModelIsRefused(t *testing.T) {
	v := &verifier{life: time.Hour}
	k, _, changes := keepersOf(t, v)
	docs, err := k.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	away := fault.New(fault.ExitNetwork, "verifier.unreachable", "", "x")
	asked := 0
	v.change = func(*client.Verdict) {
		if asked++; asked == 1 {
			v.verifyErr = away // from the next on; the lock is held
		}
	}
	if err := k.Submit(t.Context(), docs); !fault.Has(err, "verifier.unreachable") || k.Err() == nil {
		t.Fatalf("away: %v, serving: %v", err, k.Err())
	}
	v.verifyErr = nil
	if err := k.Submit(t.Context(), docs); err != nil || asked != 2 || len(*changes) != 2 || k.Err() != nil {
		t.Errorf("back: %v, %d verdicts, changes %v, serving: %v", err, asked, *changes, k.Err())
	}
	v.verifyErr = fault.New(fault.ExitPolicy, "model.registry", "", "x")
	n, err := k.Of("n")
	if err != nil {
		t.Fatal(err)
	}
	if err := submit(t, n); !fault.Has(err, "model.registry") || !fault.Has(k.Err(), CodeNoVerdict) {
		t.Errorf("refused: %v, serving: %v", err, k.Err())
	}
}

// TestALostAnswerEndsNoBoot: the verifier saw the evidence, its answer did not
// come, and the challenge is used up. What is refused for another reason is refused
// with new evidence, too.
func TestALostAnswerEndsNoBoot(t *testing.T) {
	v := &verifier{life: time.Hour}
	k, _, _ := keepersOf(t, v)
	docs, err := k.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent := slices.Clone(docs)
	v.fail(fault.New(fault.ExitNetwork, "verifier.unreachable", "", "x"))
	if err := k.Submit(t.Context(), docs); !fault.Has(err, "verifier.unreachable") {
		t.Fatal(err)
	}
	v.fail(nil)
	v.used = map[string]bool{string(docs[0]): true}
	if err := k.Submit(t.Context(), docs); err != nil || k.Err() != nil {
		t.Errorf("after a lost answer: %v, serving: %v", err, k.Err())
	}
	if string(docs[0]) == string(sent[0]) || string(docs[1]) != string(sent[1]) {
		t.Error("only what was used up is to be made again")
	}
	// A refusal without a lost answer before it stands at once.
	docs, err = k.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent = slices.Clone(docs)
	v.used = map[string]bool{string(docs[0]): true}
	if err := k.Submit(t.Context(), docs); !fault.Has(err, "nonce") || string(docs[0]) != string(sent[0]) {
		t.Errorf("refused at once: %v", err)
	}
}

// TestARefusalStandsBesideAVerifierThatWentAway: it is not tried again with a
// challenge that is used up.
func TestARefusalStandsBesideAVerifierThatWentAway(t *testing.T) {
	v := &verifier{life: time.Hour}
	k, _, _ := keepersOf(t, v)
	docs, err := k.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := true
	v.change = func(out *client.Verdict) {
		if first {
			out.Result.Accepted, first = false, false
			v.verifyErr = fault.New(fault.ExitNetwork, "verifier.unreachable", "", "x")
		}
	}
	if err := k.Submit(t.Context(), docs); !fault.Has(err, CodeRefused) || fault.ExitCode(err) == fault.ExitNetwork {
		t.Errorf("got %v", err)
	}
}

// TestAllModelsAreRenewed through two hours of a fake clock, as many as a machine
// may have, with a second between quotes: none finds the queue full.
func TestAllModelsAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, own, _ := collector(t)
		c.Queue = &Queue{Interval: MinInterval}
		for i := range evidence.MaxModels - 1 {
			name := fmt.Sprint("m-", i)
			c.Config.Models = append(c.Config.Models, evidence.ConfigModel{Name: name, Verity: evidence.Verity{Root: digest.Sum256([]byte(name)), DataBlocks: 1}})
		}
		var log syncbuf.Buffer
		k := NewKeepers(Options{Collector: c, Verifier: &verifier{life: 30 * time.Minute, clock: time.Now}, TLSKey: own.TLS, Clock: time.Now, Log: slog.New(slog.NewTextHandler(&log, nil))},
			c.Config.ServedModels(), nil)
		docs, err := k.Collect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Submit(t.Context(), docs); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { k.Run(ctx); close(done) }()
		for range 120 {
			time.Sleep(time.Minute)
			if err := k.Err(); err != nil {
				t.Fatalf("a gap: %v", err)
			}
		}
		cancel()
		<-done
		if text := log.String(); text != "" {
			t.Error(text)
		}
	})
}
