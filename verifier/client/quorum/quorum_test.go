package quorum

import (
	"crypto/ed25519"
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/policy"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// TestAQuorumIsOfKeys asks one verifier twice: it lies each time, and counts
// once.
func TestAQuorumIsOfKeys(t *testing.T) {
	one, other := Agreed{Payout: "one"}, Agreed{Payout: "other", Manifest: digest.SHA256{1}}
	answer := func(url, key string, what Agreed) Answer {
		return Answer{Verifier: url, KeyID: key, Agreed: &what}
	}
	for name, c := range map[string]struct {
		answers []Answer
		want    []int
	}{
		"one address twice":            {[]Answer{answer("a", "1", one), answer("a", "1", one)}, []int{0}},
		"one key at two addresses":     {[]Answer{answer("a", "1", one), answer("b", "1", one)}, []int{0}},
		"one that says this and that":  {[]Answer{answer("a", "1", other), answer("a", "1", one), answer("b", "2", one)}, []int{1, 2}},
		"two keys at one address":      {[]Answer{answer("a", "1", one), answer("a", "2", one)}, []int{0, 1}},
		"the larger group":             {[]Answer{answer("a", "1", other), answer("b", "2", one), answer("c", "3", one)}, []int{1, 2}},
		"who failed, and who is known": {[]Answer{{Verifier: "a", Err: errors.New("x")}, answer("b", "", one), answer("c", "3", one)}, []int{2}},
		"nobody":                       {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := agreeing(c.answers)
			if len(got) != len(c.want) {
				t.Fatalf("%d agree, want %d", len(got), len(c.want))
			}
			for i, n := range c.want {
				if got[i].Verifier != c.answers[n].Verifier || got[i].KeyID != c.answers[n].KeyID || *got[i].Agreed != *c.answers[n].Agreed {
					t.Errorf("answer %d is %+v", i, got[i])
				}
			}
		})
	}
}

// verifier runs a service of a world with a key.
func verifier(t *testing.T, w *tpmtest.World, p *policy.Policy, key ed25519.PrivateKey) string {
	t.Helper()
	s, err := server.New(server.Options{Trust: server.Trust{Policy: p, Manifests: w.Manifests(t), Signer: key}, Clock: func() time.Time { return tpmtest.Now }})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return srv.URL
}

func key(seed byte) ed25519.PrivateKey {
	s := make([]byte, ed25519.SeedSize)
	s[0] = seed
	return ed25519.NewKeyFromSeed(s)
}

func public(seeds ...byte) (out []ed25519.PublicKey) {
	for _, s := range seeds {
		out = append(out, key(s).Public().(ed25519.PublicKey))
	}
	return out
}

// TestKOfNVerifiersDecide has evidence for challenges of all appraised by three
// verifiers, one of which has the key of another and one another policy.
func TestKOfNVerifiersDecide(t *testing.T) {
	w := tpmtest.NewWorld(t)
	stricter := *w.Policy
	stricter.Name = "of another"
	one, two, twin, other := verifier(t, w, w.Policy, key(1)), verifier(t, w, w.Policy, key(2)), verifier(t, w, w.Policy, key(1)), verifier(t, w, &stricter, key(3))
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, c := range map[string]struct {
		urls  []string
		keys  []byte
		need  int
		agree int
		code  string // "": enough agree
		exit  int
	}{
		"two of two":                {[]string{one, two}, []byte{1, 2, 3}, 2, 2, "", 0},
		"two of three, one is away": {[]string{one, gone.URL, two}, []byte{1, 2}, 2, 2, "", 0},
		"one key at two addresses":  {[]string{one, twin}, []byte{1, 2, 3}, 2, 1, "verdict.quorum", fault.ExitRefused},
		"under another policy":      {[]string{one, other}, []byte{1, 2, 3}, 2, 1, "verdict.quorum", fault.ExitRefused},
		"a key that is not trusted": {[]string{one, two}, []byte{1}, 2, 1, "verdict.quorum", fault.ExitRefused},
		"one is enough":             {[]string{one, other}, []byte{1, 2, 3}, 1, 1, "", 0},
		"nobody is there":           {[]string{gone.URL}, []byte{1}, 1, 0, "verifier.unreachable", fault.ExitNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			var challenges []digest.SHA256
			for _, u := range c.urls {
				if u == gone.URL {
					continue
				}
				v, err := client.New(client.Options{BaseURL: u})
				if err != nil {
					t.Fatal(err)
				}
				ch, err := v.Challenge(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				challenges = append(challenges, ch.Challenge)
			}
			doc, err := w.Evidence(t, challenges...).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			o := Options{Verifiers: c.urls, Keys: public(c.keys...), Need: c.need, AllowDevelopment: true, Now: tpmtest.Now}
			out, err := Ask(t.Context(), doc, o)
			if out == nil || len(out.Answers) != len(c.urls) || len(out.Agree) != c.agree {
				t.Fatalf("%+v, %v", out, err)
			}
			if c.code == "" && err != nil || c.code != "" && !fault.Has(err, c.code) || fault.ExitCode(err) != c.exit {
				t.Errorf("%v, exit %d", err, fault.ExitCode(err))
			}
			for i, a := range out.Answers {
				if a.Verifier != c.urls[i] || (a.Err == nil) != (a.Claims != nil) {
					t.Errorf("answer %d: %+v", i, a)
				}
			}
			// Each challenge serves one attempt.
			if out, err := Ask(t.Context(), doc, o); err == nil || len(out.Agree) != 0 {
				t.Errorf("once more: %+v, %v", out, err)
			}
		})
	}
	for name, o := range map[string]Options{
		"none":      {Keys: public(1), Need: 1},
		"too few":   {Verifiers: []string{one}, Keys: public(1), Need: 2},
		"of nobody": {Verifiers: []string{one}, Keys: public(1)},
		"too many":  {Verifiers: make([]string, MaxVerifiers+1), Keys: public(1), Need: 1},
		"no keys":   {Verifiers: []string{one}, Need: 1},
	} {
		if out, err := Ask(t.Context(), nil, o); out != nil || fault.ExitCode(err) != fault.ExitInternal {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
	}
}
