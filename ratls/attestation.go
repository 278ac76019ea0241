package ratls

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// Path of the attestation endpoint, and the label of the TLS exporter that
// ties its answer to the connection (RFC 8446 section 7.5, RFC 9266's idea).
const (
	AttestationPath = "/.well-known/cocoon/attestation"
	ExporterLabel   = "EXPORTER-cocoon-attestation"
)

const (
	maxRequest  = 1 << 10
	maxResponse = 16 << 20
	maxHeader   = 64 << 10
)

// paramModel is the query's parameter that names the model whose evidence is
// asked for; without it a worker answers for its first. Workers of one model, of
// releases that know no other, do not look at it.
const paramModel = "model"

// Request is the body of a POST to AttestationPath.
type Request struct {
	Nonce digest.SHA256 `json:"nonce"` // chosen by the client, random
}

// Response is the answer: the current evidence, GPUs included, and the
// receipt key's signature that it is alive on this very connection.
type Response struct {
	Document
	Signature []byte `json:"signature"` // Ed25519 by claims.receipt_key over the binding
}

// Document is what a worker shows of itself.
type Document struct {
	Evidence    []byte `json:"evidence"`     // JCS of evidence.Evidence
	Verdict     string `json:"verdict"`      // the current verdict (EAR JWT), or empty
	VerdictCell string `json:"verdict_cell"` // the same verdict for contracts, or empty without a ledger
}

// binding returns what the receipt key signs: a domain label, the client's
// nonce, the TLS exporter of this connection, the evidence's hash.
func binding(cs *tls.ConnectionState, nonce digest.SHA256, doc []byte) ([]byte, error) {
	exp, err := cs.ExportKeyingMaterial(ExporterLabel, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("exporting keying material: %w", err)
	}
	sum := sha256.Sum256(doc)
	msg := append([]byte("cocoon-attestation-v1"), nonce[:]...)
	msg = append(msg, exp...)
	return append(msg, sum[:]...), nil
}

// ErrNoModel says that a worker does not serve the model that was asked for.
var ErrNoModel = errors.New("the worker does not serve this model")

// Current returns the evidence and the verdict that are in force for a model,
// ErrNoModel where it is not served; it must not trigger a quote. An empty name
// is the worker's first model.
type Current func(model string) (Document, error)

// Handler serves AttestationPath. Requests must arrive over TLS.
func Handler(current Current, key ed25519.PrivateKey) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.TLS == nil {
			http.Error(w, "POST over TLS only", http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			http.Error(w, "request too large", http.StatusRequestEntityTooLarge)
			return
		}
		var req Request
		if err := jcs.Decode(body, maxRequest, &req); err != nil {
			http.Error(w, "malformed request", http.StatusBadRequest)
			return
		}
		doc, err := current(r.URL.Query().Get(paramModel))
		if errors.Is(err, ErrNoModel) {
			http.Error(w, "no such model", http.StatusNotFound)
			return
		}
		if err != nil {
			http.Error(w, "no evidence is in force", http.StatusServiceUnavailable)
			return
		}
		msg, err := binding(r.TLS, req.Nonce, doc.Evidence)
		if err != nil {
			http.Error(w, "no binding to this connection", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// An error here is the peer's hang-up; there is no one left to tell.
		_ = json.NewEncoder(w).Encode(Response{Document: doc, Signature: ed25519.Sign(key, msg)})
	})
}

// Attest asks for the current evidence for a model, empty for the worker's first,
// over conn, before any other use of it, and verifies that the key
// receiptKey(doc) signed for this connection. The caller decides in receiptKey
// whether doc is acceptable.
func Attest(ctx context.Context, conn *tls.Conn, model string, receiptKey func(resp *Response) (ed25519.PublicKey, error)) (*Response, error) {
	var nonce digest.SHA256
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, fmt.Errorf("making nonce: %w", err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(30 * time.Second)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("setting deadline: %w", err)
	}
	resp, err := exchange(ctx, conn, nonce, model)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("clearing deadline: %w", err)
	}
	key, err := receiptKey(resp)
	if err != nil {
		return nil, err
	}
	cs := conn.ConnectionState()
	msg, err := binding(&cs, nonce, resp.Evidence)
	if err != nil {
		return nil, err
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, msg, resp.Signature) {
		return nil, fault.New(fault.ExitRefused, CodeBinding,
			"someone between you and the worker may be replaying its evidence; use another gateway",
			"verifying attestation: the receipt key did not sign for this connection")
	}
	return resp, nil
}

func exchange(ctx context.Context, conn *tls.Conn, nonce digest.SHA256, model string) (*Response, error) {
	body, err := jcs.Marshal(Request{Nonce: nonce})
	if err != nil {
		return nil, err
	}
	at := "https://enclave" + AttestationPath
	if model != "" {
		at += "?" + url.Values{paramModel: {model}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("asking for evidence: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if err := req.Write(conn); err != nil {
		return nil, network("asking for evidence: %w", err)
	}
	hr, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxResponse+maxHeader)), req)
	if err != nil {
		return nil, network("reading evidence: %w", err)
	}
	defer hr.Body.Close()
	doc, err := io.ReadAll(io.LimitReader(hr.Body, maxResponse+1))
	if err != nil {
		return nil, network("reading evidence: %w", err)
	}
	if hr.StatusCode == http.StatusNotFound && model != "" {
		return nil, fault.New(fault.ExitRefused, CodeModel, "name a model of this worker's (the gateway's /v1/workers lists them), or use another worker",
			"asking for evidence of model %.64q: %w", model, ErrNoModel)
	}
	if hr.StatusCode != http.StatusOK {
		return nil, network("asking for evidence: the worker answered %s", hr.Status)
	}
	var resp Response
	if err := jcs.Decode(doc, maxResponse, &resp); err != nil {
		return nil, fault.New(fault.ExitParse, "ratls.response", "use another worker", "reading evidence: %w", err)
	}
	return &resp, nil
}

func network(format string, args ...any) error {
	return fault.New(fault.ExitNetwork, "ratls.network", "try again, or another worker or gateway", format, args...)
}
