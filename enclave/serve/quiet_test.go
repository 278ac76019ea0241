package serve_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/enclave/engine"
	"cocoon/enclave/logring"
	"cocoon/enclave/meter"
	"cocoon/enclave/serve"
	"cocoon/enclave/status"
	"cocoon/internal/syncbuf"
)

// secret stands for what a client said and an engine answered.
const secret = "Zwetschgenroester-4711"

// talker is an engine that has the secret in everything it says, and says it
// in every way that an engine was seen to: well, badly, and not to the end.
func talker(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), engine.SocketName)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // it panics on purpose
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			n := 0
			if _, rest, ok := bytes.Cut(body, []byte(`"seed":`)); ok { // which case
				_, _ = fmt.Sscanf(string(rest), "%d", &n)
			}
			w.Header().Set("X-Secret", secret)
			if bytes.Contains(body, []byte(`"stream":true`)) {
				w.Header().Set("Content-Type", "text/event-stream")
			}
			answers := []struct {
				status int
				body   string
			}{
				{200, `{"choices":[{"message":{"content":"` + secret + `"}}],"usage":{"prompt_tokens":9,"completion_tokens":12}}`},
				{200, `{"choices":[{"message":{"content":"` + secret + `"}}]}`},
				{200, `{"` + secret},
				{200, `{"usage":{"prompt_tokens":"` + secret + `"}}`},
				{400, `{"error":{"message":"` + secret + `"}}`},
				{500, secret},
				{503, secret},
				{200, `data: {"choices":[{"delta":{"content":"` + secret + `"}}]}` + "\n\n" + `data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12}}` + "\n\ndata: [DONE]\n\n"},
				{200, `data: {"choices":[{"delta":{"content":"` + secret + `"}}]}` + "\n\ndata: [DONE]\n\n"},
				{200, `data: ` + secret + "\n\n"},
				{200, `data: {"choices":[],"usage":{"prompt_tokens":"` + secret + `"}}` + "\n\n"},
				{200, `data: {"choices":[{"delta":{"content":"` + secret},
			}
			a := answers[n%len(answers)]
			w.WriteHeader(a.status)
			_, _ = io.WriteString(w, a.body)
			if n >= len(answers) {
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler) // it dies in the middle
			}
		}),
	}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return socket
}

// TestNoWordReachesTheHost sends the secret through every part of a request
// and every answer of an engine, and reads all that the host can read: console,
// status lines, status document, log ring and metrics.
func TestNoWordReachesTheHost(t *testing.T) {
	var console, port syncbuf.Buffer
	ring, m := &logring.Ring{}, &meter.Meter{}
	doc := filepath.Join(t.TempDir(), "status.json")
	rep := status.New(status.Options{Clock: time.Now, Uptime: func() time.Duration { return 0 }, Console: &console, Path: doc, Log: ring.Lines})
	rep.Attach(&port)
	log := slog.New(slog.NewTextHandler(io.MultiWriter(&console, ring), &slog.HandlerOptions{Level: slog.LevelDebug}))
	server, _ := newLoggedWorker(t, talker(t), m, log)
	url, client := overTLS(t, server)
	said := 0
	send := func(method, path, body string, header ...string) {
		t.Helper()
		req, err := http.NewRequest(method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(serve.HeaderJob, address("job").String())
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		rsp, err := client.Do(req)
		if err != nil {
			return // an engine's death that reached the client
		}
		b, _ := io.ReadAll(rsp.Body)
		rsp.Body.Close()
		if bytes.Contains(b, []byte(secret)) {
			said++
		}
	}
	const message = `"messages":[{"role":"user","content":"` + secret + `"}]`
	for n := range 24 { // every answer, whole and cut short, streamed and not
		for _, stream := range []string{"false", "true"} {
			send("POST", serve.PathChat, fmt.Sprintf(`{"model":"m",%s,"stream":%s,"seed":%d}`, message, stream, n))
			send("POST", serve.PathCompletions, fmt.Sprintf(`{"model":"m","prompt":%q,"stream":%s,"seed":%d}`, secret, stream, n))
		}
	}
	for _, body := range []string{
		secret, `{"` + secret + `":1}`, `{"model":"` + secret + `"}`, `{"model":"m","` + secret + `":1,` + message + `}`,
		`{"model":"m","messages":[{"role":"` + secret + `","content":"x"}]}`, `{"model":"m","messages":[{"role":"user","content":[{"type":"` + secret + `"}]}]}`,
		`{"model":"m",` + message + `,"tool_choice":"` + secret + `"}`, `{"model":"m",` + message + `,"response_format":{"type":"` + secret + `"}}`,
		`{"model":"m",` + message + `,"stop":"` + secret + `","user":"` + secret + `","tools":[{"type":"function","function":{"name":"` + secret + `"}}]}`,
	} {
		send("POST", serve.PathChat, body)
	}
	send("POST", serve.PathChat, `{"model":"m",`+message+`}`, serve.HeaderJob, secret)
	send("POST", serve.PathChat, `{"model":"m",`+message+`}`, serve.HeaderTimeout, secret)
	send("POST", serve.PathChat, `{"model":"m",`+message+`}`, "Authorization", secret, "Cookie", secret, "X-"+secret, secret)
	send("POST", "/v1/"+secret, secret)
	send(strings.ToUpper("m"+strings.ReplaceAll(secret, "-", "")), "/", secret)
	send("POST", serve.PathVoucher, secret)
	send("GET", serve.PathVoucher+"?job="+secret, "")
	send("GET", serve.PathReceipt+"?job="+secret+"&request="+secret+"&before="+secret, "")
	if said < 20 {
		t.Fatalf("the secret came back %d times: the requests do not reach the engine", said)
	}

	rep.Report(status.Line{Type: status.TypeMetrics, Metrics: m.Text()})
	rep.State(status.Halted, nil)
	rep.Log()
	rep.Flush(time.Minute)
	document, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"console": console.String(), "port": port.String(), "document": string(document), "log": strings.Join(ring.Lines(), "\n"), "metrics": m.Text(),
	} {
		if len(text) < 100 {
			t.Errorf("%s has %d bytes: nothing is shown", name, len(text))
		}
		for how, form := range map[string]string{
			"as it is": secret, "in part": secret[:8], "hex": hex.EncodeToString([]byte(secret)),
			"base64": base64.StdEncoding.EncodeToString([]byte(secret))[:12],
		} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
				t.Errorf("%s tells the secret %s:\n%s", name, how, text)
			}
		}
	}
}
