package modelkey

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/wire"
)

var one = digest.SHA256{1}

func encoded(t testing.TB, m any) []byte {
	t.Helper()
	b, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMessagesAreReadStrictly(t *testing.T) {
	parsers := map[string]func([]byte) error{
		"hello": func(b []byte) error { _, err := ParseHello(b); return err },
		"offer": func(b []byte) error { _, err := ParseOffer(b); return err },
		"ask":   func(b []byte) error { _, err := ParseAsk(b); return err },
		"grant": func(b []byte) error { _, err := ParseGrant(b); return err },
	}
	good := map[string][]byte{
		"hello": encoded(t, &Hello{Format}), "offer": encoded(t, &Offer{Format, one}),
		"ask":   encoded(t, &Ask{Format, one, one, []byte("{}"), []byte("{}")}),
		"grant": encoded(t, &Grant{Format, []byte{1}}),
	}
	for which, parse := range parsers {
		doc := string(good[which])
		if err := parse([]byte(doc)); err != nil {
			t.Errorf("%s: %v", which, err)
		}
		for name, bad := range map[string]string{
			"nothing": "", "not JSON": "x", "an unknown key": `{"a":1,` + doc[1:], "a key twice": `{"format":"x",` + doc[1:],
			"blanks": " " + doc, "something behind it": doc + "{}", "another format": strings.Replace(doc, Format, "cocoon-model-release/2", 1),
		} {
			if err := parse([]byte(bad)); !fault.Has(err, CodeMessage) {
				t.Errorf("%s, %s: %v", which, name, err)
			}
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(encoded(f, &Hello{Format}))
	f.Add(encoded(f, &Offer{Format, one}))
	f.Add(encoded(f, &Ask{Format, one, one, []byte("{}"), []byte("{}")}))
	f.Add(encoded(f, &Grant{Format, []byte{1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		again := func(m any, err error) {
			if err != nil {
				return
			}
			if out := encoded(t, m); !bytes.Equal(out, b) {
				t.Fatalf("%q came back as %q", b, out)
			}
		}
		h, err := ParseHello(b)
		again(h, err)
		o, err := ParseOffer(b)
		again(o, err)
		a, err := ParseAsk(b)
		again(a, err)
		g, err := ParseGrant(b)
		again(g, err)
	})
}

func FuzzProblem(f *testing.F) {
	f.Add([]byte(`{"type":"x","title":"x","status":403,"code":"a","faults":[{"code":"a","message":"b","exit":3}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range fault.All(problem(b, fault.ExitRefused)) {
			if len(e.Msg) > maxText+len("owner: ") || len(e.Code) > maxText || e.Exit != fault.ExitRefused || strings.ContainsAny(e.Msg+e.Code+e.Remedy, "\n\x1b") {
				t.Fatalf("%q gives %+v", b, e)
			}
		}
	})
}

// answers is a network with one service.
type answers func(*http.Request) (int, string)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := a(r)
	if status == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}, Request: r}, nil
}

// TestWhatServicesSay decides whether the enclave asks again: for the network's
// sake alone.
func TestWhatServicesSay(t *testing.T) {
	refusal := func(code string, exit int) string {
		b, err := jcs.Marshal(wire.Problem{Code: code, Faults: []wire.Fault{{Code: code, Message: "no\x1b[31m" + strings.Repeat("x", 1000), Exit: exit}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, c := range map[string]struct {
		status int
		body   string
		code   string
		exit   int
	}{
		"nothing":                      {0, "", CodeAway, fault.ExitNetwork},
		"a refusal":                    {403, refusal("policy.class", fault.ExitPolicy), "policy.class", fault.ExitRefused},
		"a refusal that asks for more": {403, refusal("policy.class", fault.ExitNetwork), "policy.class", fault.ExitRefused},
		"too much to do":               {503, refusal(CodeBusy, fault.ExitNetwork), CodeBusy, fault.ExitNetwork},
		"an internal failure":          {500, refusal("model.release_log", fault.ExitInternal), "model.release_log", fault.ExitNetwork},
		"another server's page":        {404, "<html>", CodeAway, fault.ExitNetwork},
		"a redirect":                   {302, "", CodeAway, fault.ExitNetwork},
		"a page instead of an offer":   {200, "<html>", CodeMessage, fault.ExitParse},
		"an answer without an end":     {200, strings.Repeat("x", MaxAnswer+1), CodeMessage, fault.ExitParse},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Asker{URL: "http://10.0.2.103:80", HTTP: &http.Client{Transport: answers(func(*http.Request) (int, string) { return c.status, c.body }),
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
			key, err := a.Ask(t.Context(), one, one)
			if key != nil || !fault.Has(err, c.code) || fault.ExitCode(err) != c.exit {
				t.Fatalf("got %v, exit code %d, want %s and %d", err, fault.ExitCode(err), c.code, c.exit)
			}
			for _, f := range fault.All(err) {
				if len(f.Msg) > maxText+100 || strings.Contains(f.Msg, "\x1b") {
					t.Errorf("the service's words go on as they are: %q", f.Msg)
				}
			}
		})
	}
}

func TestAddressesThatAreNone(t *testing.T) {
	for _, url := range []string{"", "10.0.2.103:80", "ftp://10.0.2.103", "http://", "http://a:b@10.0.2.103", "http://10.0.2.103/?x", "http://10.0.2.103/#x", "http://%zz"} {
		a := &Asker{URL: url}
		if _, err := a.Ask(t.Context(), one, one); !fault.Has(err, CodeNone) {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// TestEvidenceThatCannotBeHad ends the exchange with the machine's own fault.
func TestEvidenceThatCannotBeHad(t *testing.T) {
	offer := string(encoded(t, &Offer{Format, one}))
	a := &Asker{URL: "http://10.0.2.103", HTTP: &http.Client{Transport: answers(func(*http.Request) (int, string) { return 200, offer })}, Receipt: ed25519.NewKeyFromSeed(make([]byte, 32)),
		Evidence: func(_ context.Context, challenge digest.SHA256) ([]byte, error) {
			return nil, fault.New(fault.ExitNotReady, "evidence.busy", "wait", "collecting evidence for %s", fmt.Sprint(challenge))
		}}
	if _, err := a.Ask(t.Context(), one, one); !fault.Has(err, "evidence.busy") {
		t.Errorf("got %v", err)
	}
}
