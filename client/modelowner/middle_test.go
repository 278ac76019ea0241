package modelowner_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/modelpack"
	"cocoon/ratls/envelope"
	"cocoon/ratls/modelkey"
)

// TestAHostInTheMiddle changes, swaps and replays messages.
func TestAHostInTheMiddle(t *testing.T) {
	change := func(t *testing.T, b []byte, field string, v any) []byte {
		t.Helper()
		var m map[string]any
		ok(t, json.Unmarshal(b, &m))
		m[field] = v
		out, err := jcs.Marshal(m)
		ok(t, err)
		return out
	}
	const challenge, release = modelkey.PathChallenge, modelkey.PathRelease
	for name, c := range map[string]struct {
		where string
		field string
		value any
		code  string
	}{
		"another challenge":           {"answer " + challenge, "challenge", digest.SHA256{9}, modelkey.CodeChallenge},
		"no challenge":                {"answer " + challenge, "challenge", digest.SHA256{}, modelkey.CodeMessage},
		"another format of the offer": {"answer " + challenge, "format", "x", modelkey.CodeMessage},
		"another root":                {release, "root", digest.SHA256{9}, modelkey.CodeUnknown},
		"another key":                 {release, "key_sha256", digest.SHA256{9}, modelkey.CodeUnknown},
		"no request":                  {release, "request", []byte("{}"), envelope.CodeRequest},
		"no evidence":                 {release, "evidence", []byte("{}"), modelkey.CodeMessage},
		"nothing for evidence":        {release, "evidence", []byte{}, modelkey.CodeMessage},
		"an unknown field":            {release, "x", 1, modelkey.CodeMessage},
		"another format of the hello": {challenge, "format", "x", modelkey.CodeMessage},
		"an envelope of its own":      {"answer " + release, "envelope", make([]byte, 1300), envelope.CodeOpen},
		"an envelope that is short":   {"answer " + release, "envelope", []byte{1}, envelope.CodeOpen},
		"another format of the grant": {"answer " + release, "format", "x", modelkey.CodeMessage},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.host = func(to string, b []byte) []byte {
				if to == c.where {
					return change(t, b, c.field, c.value)
				}
				return b
			}
			if key, err := w.ask(); key != nil || !fault.Has(err, c.code) {
				t.Errorf("got %v, %v, want %s", key, err, c.code)
			}
		})
	}
	t.Run("messages with a byte changed", func(t *testing.T) {
		for _, where := range []string{challenge, "answer " + challenge, release, "answer " + release} {
			w := newWorld(t)
			n := 0
			w.host = func(to string, b []byte) []byte {
				if to == where {
					b = bytes.Clone(b)
					b[(n*131)%len(b)] ^= 1
				}
				return b
			}
			for ; n < 12; n++ {
				if key, err := w.ask(); err == nil {
					t.Fatalf("%s, byte %d: released %v", where, n*131, key)
				}
			}
		}
	})
}

func TestAReplayedRequestReleasesNothing(t *testing.T) {
	w := newWorld(t)
	var ask, grant []byte
	w.host = func(to string, b []byte) []byte {
		switch to {
		case modelkey.PathRelease:
			ask = bytes.Clone(b)
		case "answer " + modelkey.PathRelease:
			grant = bytes.Clone(b)
		}
		return b
	}
	_, err := w.ask()
	ok(t, err)
	if _, err := w.owner.Release(t.Context(), ask, "x"); !fault.Has(err, modelkey.CodeChallenge) {
		t.Errorf("the request again: %v", err)
	}
	if n := len(w.released()); n != 1 {
		t.Errorf("%d releases in the log", n)
	}
	// An older grant does not open for a later request.
	w.host = func(to string, b []byte) []byte {
		if to == "answer "+modelkey.PathRelease {
			return grant
		}
		return b
	}
	if key, err := w.ask(); key != nil || !fault.Has(err, envelope.CodeOpen) {
		t.Errorf("an older grant: %v, %v", key, err)
	}
	// Nor does a request for another owner's service.
	w.host = func(_ string, b []byte) []byte { return b }
	w.log += ".2"
	w.serve()
	if _, err := w.owner.Release(t.Context(), ask, "x"); !fault.Has(err, modelkey.CodeChallenge) {
		t.Errorf("a request to a service that was started again: %v", err)
	}
}

// TestARequestOfAnotherPurpose is one that an enclave made to take over a data
// disk, which a host brings here.
func TestARequestOfAnotherPurpose(t *testing.T) {
	w := newWorld(t)
	hello, err := modelkey.Encode(&modelkey.Hello{Format: modelkey.Format})
	ok(t, err)
	answer, err := w.owner.Offer(hello)
	ok(t, err)
	offer, err := modelkey.ParseOffer(answer)
	ok(t, err)
	doc, err := w.show(t.Context(), offer.Challenge)
	ok(t, err)
	k, err := envelope.NewKey(envelope.PurposeHandover, offer.Challenge, doc, w.keys.Receipt)
	ok(t, err)
	ask, err := modelkey.Encode(&modelkey.Ask{Format: modelkey.Format, Root: w.config.Model.Verity.Root, KeySHA256: w.held.Key.ID(), Evidence: doc, Request: k.Request()})
	ok(t, err)
	if _, err := w.owner.Release(t.Context(), ask, "x"); !fault.Has(err, envelope.CodeForeign) {
		t.Errorf("got %v, want %s", err, envelope.CodeForeign)
	}
}

// TestAServiceOfTheHosts is one that the host runs at the address, and that
// gives what it has.
func TestAServiceOfTheHosts(t *testing.T) {
	w := newWorld(t)
	id, want := w.config.Model.KeySHA256, w.held.Key
	w.held.Key = modelpack.NewKey()
	// It finds the evidence good and the request, too.
	w.serveAs(*id)
	if key, err := w.ask(); key != nil || !fault.Has(err, modelkey.CodeMismatch) {
		t.Errorf("got %v (the owner's is %v), %v, want %s", key, want, err, modelkey.CodeMismatch)
	}
}
