package envelope

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

var (
	now       = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	receipt   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	document  = []byte(`{"evidence":"of a machine"}`)
	challenge = digest.Sum256([]byte("challenge"))
	secret    = []byte("the key of a model pack, 32 B...")
	context   = []byte("model@1")
)

func accepted() *result.Result {
	return &result.Result{Accepted: true, NotAfter: now.Add(time.Minute), EvidenceSHA256: digest.Sum256(document),
		Claims: evidence.Claims{ReceiptKey: digest.SHA256(receipt.Public().(ed25519.PublicKey))}}
}

func holder() Holder {
	return Holder{Purpose: PurposeModelKey, Challenge: challenge, Result: accepted(), Now: now}
}

func key(t testing.TB) *Key {
	t.Helper()
	k, err := NewKey(PurposeModelKey, challenge, document, receipt)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestASecretReachesTheEnclaveThatAskedOnce(t *testing.T) {
	k := key(t)
	env, err := holder().Seal(k.Request(), secret, context)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(env, secret) {
		t.Fatal("the secret is readable")
	}
	if _, err := k.Open(env, []byte("model@2")); !fault.Has(err, CodeOpen) {
		t.Errorf("under another context: %v", err)
	}
	got, err := k.Open(env, context)
	if err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("opened %q, %v", got, err)
	}
	if _, err := k.Open(env, context); !fault.Has(err, CodeUsed) {
		t.Errorf("a second time: %v", err)
	}
	if _, err := key(t).Open(env, context); !fault.Has(err, CodeOpen) {
		t.Errorf("with another key: %v", err)
	}
}

func TestRequestsThatGetNoSecret(t *testing.T) {
	resign := func(r *Request, by ed25519.PrivateKey) {
		msg, err := r.bound()
		if err != nil {
			t.Fatal(err)
		}
		r.Signature = ed25519.Sign(by, msg)
	}
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	for name, c := range map[string]struct {
		code   string
		holder func(*Holder)
		change func(*Request)
	}{
		"evidence that was refused":   {CodeRefused, func(h *Holder) { h.Result.Accepted = false }, nil},
		"no appraisal":                {CodeRefused, func(h *Holder) { h.Result = nil }, nil},
		"foreign evidence":            {CodeRefused, func(h *Holder) { h.Result.Foreign = true }, nil},
		"an appraisal past its end":   {CodeExpired, func(h *Holder) { h.Now = h.Result.NotAfter }, nil},
		"another challenge":           {CodeForeign, func(h *Holder) { h.Challenge[0] ^= 1 }, nil},
		"no challenge":                {CodeForeign, func(h *Holder) { h.Challenge = digest.SHA256{} }, func(r *Request) { r.Challenge = digest.SHA256{}; resign(r, receipt) }},
		"another purpose":             {CodeForeign, func(h *Holder) { h.Purpose = PurposeHandover }, nil},
		"other evidence":              {CodeForeign, func(h *Holder) { h.Result.EvidenceSHA256[0] ^= 1 }, nil},
		"evidence of another machine": {CodeSignedBy, func(h *Holder) { h.Result.Claims.ReceiptKey[0] ^= 1 }, nil},
		"signed by another key":       {CodeSignedBy, nil, func(r *Request) { resign(r, other) }},
		"a key put in by another":     {CodeSignedBy, nil, func(r *Request) { r.Key[0] ^= 1 }},
		"a key that is none":          {CodeRequest, nil, func(r *Request) { r.Key = r.Key[1:]; resign(r, receipt) }},
		"no signature":                {CodeRequest, nil, func(r *Request) { r.Signature = nil }},
		"another format":              {CodeRequest, nil, func(r *Request) { r.Format = "x"; resign(r, receipt) }},
		"a purpose without end":       {CodeRequest, nil, func(r *Request) { r.Purpose = strings.Repeat("x", 65) }},
	} {
		t.Run(name, func(t *testing.T) {
			h := holder()
			r, err := ParseRequest(key(t).Request())
			if err != nil {
				t.Fatal(err)
			}
			if c.holder != nil {
				c.holder(&h)
			}
			if c.change != nil {
				c.change(r)
			}
			doc, err := jcs.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if env, err := h.Seal(doc, secret, context); !fault.Has(err, c.code) || env != nil {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
}

func TestSecretsOfAnImpossibleLength(t *testing.T) {
	for _, n := range []int{0, MaxSecret + 1} {
		if _, err := holder().Seal(key(t).Request(), make([]byte, n), nil); err == nil {
			t.Errorf("a secret of %d bytes was sealed", n)
		}
	}
	k := key(t)
	env, err := holder().Seal(k.Request(), make([]byte, MaxSecret), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open(env, nil); err != nil || len(got) != MaxSecret {
		t.Errorf("the longest secret: %d bytes, %v", len(got), err)
	}
}

func TestEveryByteOfAnEnvelopeCounts(t *testing.T) {
	k := key(t)
	env, err := holder().Seal(k.Request(), secret, context)
	if err != nil {
		t.Fatal(err)
	}
	for i := range env {
		bad := bytes.Clone(env)
		bad[i] ^= 1 << (i % 8)
		if _, err := k.Open(bad, context); !fault.Has(err, CodeOpen) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	for _, n := range []int{0, 1, 1120, len(env) - 1} {
		if _, err := k.Open(env[:n], context); !fault.Has(err, CodeOpen) {
			t.Errorf("%d bytes of it: %v", n, err)
		}
	}
	if _, err := k.Open(append(bytes.Clone(env), 0), context); !fault.Has(err, CodeOpen) {
		t.Errorf("a byte more: %v", err)
	}
}

// TestEveryByteOfARequestCounts flips each: none is answered.
func TestEveryByteOfARequestCounts(t *testing.T) {
	doc := key(t).Request()
	for i := range doc {
		bad := bytes.Clone(doc)
		bad[i] ^= 1 << (i % 7)
		if _, err := holder().Seal(bad, secret, context); err == nil {
			t.Fatalf("byte %d flipped: answered", i)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(key(f).Request())
	f.Add([]byte(`{"format":"cocoon-envelope/1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			if fault.ExitCode(err) != fault.ExitParse {
				t.Errorf("exit code %d: %v", fault.ExitCode(err), err)
			}
			return
		}
		again, err := jcs.Marshal(r)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("read %q, wrote %q, %v", b, again, err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	k := key(f)
	env, err := holder().Seal(k.Request(), secret, context)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(env[:len(env)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := k.Open(b, context); err == nil && !bytes.Equal(b, env) {
			t.Errorf("opened %x", got)
		}
	})
}
