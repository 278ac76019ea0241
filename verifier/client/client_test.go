package client

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cocoon/internal/fault"
)

func TestAddressesAreChecked(t *testing.T) {
	for _, u := range []string{"", "127.0.0.1:1", "ftp://h", "http://", "http://u:p@h", "http://h?q", "http://h#f", "http://%zz"} {
		if _, err := New(Options{BaseURL: u}); err == nil {
			t.Errorf("%q is taken", u)
		}
	}
	for _, u := range []string{"http://h", "https://h:1/base/"} {
		if _, err := New(Options{BaseURL: u}); err != nil {
			t.Errorf("%q: %v", u, err)
		}
	}
}

// TestAnswersAreNotTrusted talks to servers that answer what no verifier
// does.
func TestAnswersAreNotTrusted(t *testing.T) {
	problem := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = w.Write([]byte(body))
		}
	}
	body := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) }
	}
	const head = `{"type":"t","title":"t","status":422,"code":"a.b","faults":[`
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		code string
		exit int
	}{
		"not JSON":       {body("hello"), "verifier.response", fault.ExitParse},
		"an unknown key": {body(`{"challenge":"` + strings.Repeat("00", 32) + `","expires_at":"2026-01-01T00:00:00Z","x":1}`), "verifier.response", fault.ExitParse},
		"too much":       {body(strings.Repeat(" ", MaxResponse+1)), "verifier.response", fault.ExitParse},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, "verifier.response", fault.ExitNetwork},
		"another server's error":    {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", 500) }, "verifier.response", fault.ExitNetwork},
		"a problem":                 {problem(head + `{"code":"c.d","message":"m","exit":4}]}`), "c.d", fault.ExitPolicy},
		"a refusal that claims 0":   {problem(head + `{"code":"c.d","message":"m","exit":0}]}`), "c.d", fault.ExitRefused},
		"a problem without a fault": {problem(head + `]}`), "a.b", fault.ExitRefused},
		"a problem without a code":  {problem(`{"type":"t","title":"t","status":422,"code":"","faults":[]}`), "verifier.response", fault.ExitNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(c.h)
			defer srv.Close()
			cl, err := New(Options{BaseURL: srv.URL})
			if err != nil {
				t.Fatal(err)
			}
			got, err := cl.Challenge(context.Background())
			if got != nil || !fault.Has(err, c.code) || fault.ExitCode(err) != c.exit {
				t.Errorf("got %v, %v (exit %d), want %s (exit %d)", got, err, fault.ExitCode(err), c.code, c.exit)
			}
		})
	}
}

func TestSilenceIsANetworkFailure(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	cl, err := New(Options{BaseURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := cl.Healthy(context.Background()); !fault.Has(err, "verifier.unreachable") || fault.ExitCode(err) != fault.ExitNetwork {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := cl.Healthy(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
