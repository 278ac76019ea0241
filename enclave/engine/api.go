package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"cocoon/internal/fault"
)

// maxProbe bounds an answer to a readiness probe, in bytes.
const maxProbe = 1 << 20

// CodeRoute is the code of a request for a route that no client may ask for.
const CodeRoute = "engine.route_refused"

// API is the engine's HTTP interface: on its UNIX socket, or on a port of its
// network namespace.
type API struct {
	adapter   Adapter
	transport *http.Transport
}

// NewAPI returns the interface of an engine that dial connects to.
func NewAPI(a Adapter, dial func(ctx context.Context) (net.Conn, error)) *API {
	return &API{adapter: a, transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:  true, // bodies are passed on as they are
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
	}}
}

// RoundTrip sends a client's request to the engine. The URL's host is ignored.
// A route outside the adapter's list never leaves: engines have some that show
// prompts, flush caches or load other weights.
func (a *API) RoundTrip(r *http.Request) (*http.Response, error) {
	if !a.adapter.Serves(r.Method, r.URL.Path) {
		return nil, fault.New(fault.ExitRefused, CodeRoute, "use a route of the OpenAI API", "asking engine: %s %.100q is not in the allow-list of %s", r.Method, r.URL.Path, a.adapter.Kind())
	}
	return a.transport.RoundTrip(r)
}

// answers returns nil once the engine lists the model and answers a one-token
// chat: with its health, each alone was seen to pass while the next one failed.
func (a *API) answers(ctx context.Context, model string) error {
	b, err := a.do(ctx, http.MethodGet, "/v1/models", nil)
	if err != nil {
		return err
	}
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("reading engine's models: %w", err)
	}
	found := false
	for _, m := range list.Data {
		found = found || m.ID == model
	}
	if !found {
		return fmt.Errorf("probing engine: it does not list model %s", model)
	}
	body, err := json.Marshal(map[string]any{
		"model": model, "max_tokens": 1, "temperature": 0,
		"messages": []map[string]string{{"role": "user", "content": "hi"}},
	})
	if err != nil {
		return fmt.Errorf("probing engine: %w", err)
	}
	b, err = a.do(ctx, http.MethodPost, "/v1/chat/completions", body)
	if err != nil {
		return err
	}
	var answer struct {
		Choices []json.RawMessage `json:"choices"`
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return fmt.Errorf("reading engine's answer: %w", err)
	}
	if len(answer.Choices) == 0 {
		return errors.New("probing engine: the answer has no choices")
	}
	return nil
}

func (a *API) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("probing engine: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	rsp, err := a.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("probing engine: %w", err)
	}
	defer rsp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(rsp.Body, maxProbe))
	if err != nil {
		return nil, fmt.Errorf("probing engine: %w", err)
	}
	if rsp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("probing engine: %s answered %s", path, rsp.Status)
	}
	return b, nil
}
