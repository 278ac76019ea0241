package client

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/internal/fault"
	"cocoon/measurements/log"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
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
	problem := func(faults ...*verifierv1.Fault) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			e := connect.NewError(connect.CodeFailedPrecondition, errors.New("no"))
			d, err := connect.NewErrorDetail(&verifierv1.Faults{Faults: faults})
			if err != nil {
				t.Error(err)
			}
			e.AddDetail(d)
			_ = connect.NewErrorWriter().Write(w, r, e)
		}
	}
	body := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) }
	}
	msg := func(m proto.Message) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			b, err := proto.Marshal(m)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Type", "application/proto")
			_, _ = w.Write(b)
		}
	}
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		code string
		exit int
	}{
		"not JSON":     {body("hello"), "verifier.response", fault.ExitParse},
		"no challenge": {msg(&verifierv1.ChallengeResponse{Challenge: "00"}), "verifier.response", fault.ExitParse},
		"no expiry":    {msg(&verifierv1.ChallengeResponse{Challenge: strings.Repeat("00", 32)}), "verifier.response", fault.ExitParse},
		"too much":     {body(strings.Repeat(" ", MaxResponse+1)), "verifier.response", fault.ExitParse},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, "verifier.response", fault.ExitParse},
		"another server's error":   {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", 500) }, "verifier.response", fault.ExitParse},
		"a fault":                  {problem(&verifierv1.Fault{Code: "c.d", Message: "m", Exit: 4}), "c.d", fault.ExitPolicy},
		"a failure that claims 0":  {problem(&verifierv1.Fault{Code: "c.d", Message: "m"}), "c.d", fault.ExitRefused},
		"an error without a fault": {problem(), "verifier.response", fault.ExitParse},
		"a fault without a code":   {problem(&verifierv1.Fault{Message: "m"}), "verifier.response", fault.ExitParse},
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

// TestAProofThatIsTooLargeIsDropped has a verifier hand out a manifest with more
// than a proof can be: the manifest is good all the same.
func TestAProofThatIsTooLargeIsDropped(t *testing.T) {
	w := tpmtest.NewWorld(t)
	for n, want := range map[int]int{log.MaxProof: log.MaxProof, log.MaxProof + 1: 0} {
		srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			b, err := proto.Marshal(&verifierv1.GetManifestResponse{Envelope: w.Envelope(t), Inclusion: make([]byte, n)})
			if err != nil {
				t.Error(err)
			}
			rw.Header().Set("Content-Type", "application/proto")
			_, _ = rw.Write(b)
		}))
		defer srv.Close()
		cl, err := New(Options{BaseURL: srv.URL})
		if err != nil {
			t.Fatal(err)
		}
		p, err := cl.Manifest(t.Context(), w.Manifests(t)[0].SHA256)
		if err != nil || len(p.Envelope) == 0 || len(p.Inclusion) != want {
			t.Errorf("of %d bytes there are %d, want %d: %v", n, len(p.Inclusion), want, err)
		}
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

// TestAServiceThatIsBusyIsAskedAgain turns requests away twice.
func TestAServiceThatIsBusyIsAskedAgain(t *testing.T) {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) <= 2 {
			_ = connect.NewErrorWriter().Write(w, r, wire.Error(fault.New(fault.ExitNetwork, wire.CodeBusy, "", "busy")))
			return
		}
		b, err := proto.Marshal(&verifierv1.ChallengeResponse{Challenge: strings.Repeat("00", 32), ExpiresAt: timestamppb.Now()})
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/proto")
		_, _ = w.Write(b)
	}))
	defer srv.Close()
	began := time.Now()
	for retries, ok := range map[int]bool{-1: false, 0: true} {
		asked.Store(0)
		cl, err := New(Options{BaseURL: srv.URL, Retries: retries})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cl.Challenge(context.Background()); (err == nil) != ok || !ok && !fault.Has(err, wire.CodeBusy) {
			t.Errorf("with %d retries: %v", retries, err)
		}
	}
	if waited := time.Since(began); waited < 2*time.Second {
		t.Errorf("it waited %s, and Retry-After said a second twice", waited)
	}
	if got := retryAfter(errors.New("x")); got != 0 {
		t.Errorf("without an answer: %s", got)
	}
	far := connect.NewError(connect.CodeUnavailable, errors.New("x"))
	far.Meta().Set("Retry-After", "60000")
	if got := retryAfter(far); got != maxRetryAfter {
		t.Errorf("a day is %s", got)
	}
}
