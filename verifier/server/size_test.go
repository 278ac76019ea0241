package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
)

// Too much for any method, and for all but those that read evidence.
const (
	tooMuchEvidence = evidence.MaxEvidence/3*4 + 1<<20
	tooMuch         = 65 << 10
)

// TestTooLargeRequestsAreCalledThatInEveryProtocol sends more than a method takes
// by each of the service's protocols: who does is told that, and not to come back.
func TestTooLargeRequestsAreCalledThatInEveryProtocol(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	// gRPC wants HTTP/2.
	srv := httptest.NewUnstartedServer(s.http.Config.Handler)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	defer srv.Close()
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	hc := &http.Client{Transport: &http.Transport{Protocols: h2}}
	defer hc.CloseIdleConnections()
	for name, o := range map[string][]connect.ClientOption{
		"connect, protobuf": {}, "connect, JSON": {connect.WithProtoJSON()}, "connect, compressed": {connect.WithSendGzip()},
		"gRPC": {connect.WithGRPC()}, "gRPC, JSON": {connect.WithGRPC(), connect.WithProtoJSON()}, "gRPC, compressed": {connect.WithGRPC(), connect.WithSendGzip()},
		"gRPC-Web": {connect.WithGRPCWeb()},
	} {
		t.Run(name, func(t *testing.T) {
			c := verifierv1connect.NewVerifierServiceClient(hc, srv.URL, o...)
			compressed := strings.HasSuffix(name, "compressed") // and so small until it is unpacked
			_, err := c.Appraise(t.Context(), connect.NewRequest(&verifierv1.AppraiseRequest{Evidence: make([]byte, tooMuchEvidence)}))
			check := func(what string, err error) {
				t.Helper()
				var e *connect.Error
				if !errors.As(err, &e) || e.Code() != connect.CodeInvalidArgument {
					t.Fatalf("%s: %v", what, err)
				}
				if fs := wire.Faults(e); len(fs) != 1 || fs[0].Code != "request.too_large" || !strings.Contains(fs[0].Msg, "more than") || fs[0].Remedy == "" {
					t.Errorf("%s: faults %v", what, fs)
				}
				if after := e.Meta().Get("Retry-After"); after != "" {
					t.Errorf("%s: Retry-After %s", what, after)
				}
			}
			check("evidence", err)
			if !compressed {
				_, err = c.GetVerdict(t.Context(), connect.NewRequest(&verifierv1.GetVerdictRequest{EvidenceSha256: strings.Repeat("0", tooMuch)}))
				check("a hash", err)
			}
			// What is not too large is read.
			if _, err := c.Appraise(t.Context(), connect.NewRequest(&verifierv1.AppraiseRequest{Evidence: make([]byte, 2<<20)})); wireCode(err) == "request.too_large" || err != nil && connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Errorf("two MiB: %v", err)
			}
			if _, err := c.Challenge(t.Context(), connect.NewRequest(&verifierv1.ChallengeRequest{})); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func wireCode(err error) string {
	var e *connect.Error
	if errors.As(err, &e) {
		for _, f := range wire.Faults(e) {
			return f.Code
		}
	}
	return ""
}

// TestTooLargeRequestsHaveHTTPsStatus sends them without a client of connect, of
// a length that is told, one that is not, and packed.
func TestTooLargeRequestsHaveHTTPsStatus(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), nil)
	long := `{"evidence":"` + strings.Repeat("A", tooMuchEvidence) + `"}`
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.WriteString(z, long); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path, encoding string
		body           io.Reader
	}{
		"evidence":                     {pathAppraise, "", strings.NewReader(long)},
		"evidence of no stated length": {pathAppraise, "", io.MultiReader(strings.NewReader(long))},
		"packed evidence":              {pathAppraise, "gzip", &packed},
		"a small method":               {"/cocoon.verifier.v1.VerifierService/Challenge", "", strings.NewReader(`{"x":"` + strings.Repeat("A", tooMuch) + `"}`)},
		"a small method, no length":    {"/cocoon.verifier.v1.VerifierService/Challenge", "", io.MultiReader(strings.NewReader(`{"x":"` + strings.Repeat("A", tooMuch) + `"}`))},
		"Azure's call":                 {wire.PathMAA, "", strings.NewReader(long)},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.http.URL+c.path, c.body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			if c.encoding != "" {
				req.Header.Set("Content-Encoding", c.encoding)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge || !json.Valid(b) || !strings.Contains(resp.Header.Get("Content-Type"), "json") || resp.Header.Get("Retry-After") != "" {
				t.Errorf("status %d, %v, %s, %v", resp.StatusCode, resp.Header, b, err)
			}
			for name := range resp.Header {
				if strings.HasPrefix(name, "Cocoon-") {
					t.Errorf("header %s", name)
				}
			}
		})
	}
	// The client makes a fault of it, and does not ask again.
	if _, err := s.client.VerifyBytes(context.Background(), make([]byte, tooMuchEvidence)); !fault.Has(err, "request.too_large") {
		t.Errorf("the client says %v", err)
	}
}

// TestEverythingButItsStateIsWithinACallersRate asks for each document once the
// caller has used up what he may.
func TestEverythingButItsStateIsWithinACallersRate(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.PerSecond, o.Burst = 0.001, 4 })
	status := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get(s.http.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Retry-After")
	}
	for _, path := range []string{"/", "/page/page.js", wire.PathJWKS, wire.PathInfo} {
		if got, _ := status(path); got != http.StatusOK {
			t.Errorf("GET %s: %d", path, got)
		}
	}
	for _, path := range []string{"/", "/page/page.css", "/page/page.js", "/page/read.js", wire.PathJWKS, wire.PathInfo, wire.PathOpenAPI, wire.PathChecks} {
		if got, after := status(path); got != http.StatusTooManyRequests || after == "" {
			t.Errorf("GET %s over the rate: %d, Retry-After %q", path, got, after)
		}
	}
	for _, path := range []string{wire.PathHealth, wire.PathReady, wire.PathMetrics} {
		if got, _ := status(path); got != http.StatusOK {
			t.Errorf("GET %s over the rate: %d", path, got)
		}
	}
}
