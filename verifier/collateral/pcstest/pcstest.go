// Package pcstest is a provisioning certification service for tests: it
// answers as Intel's PCS and a PCCS do (API version 4), with collateral that
// the test makes (see package tdxtest) or already has, and misbehaves on
// demand. It is no PCCS: nothing in it fetches, caches or checks anything.
package pcstest

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"cocoon/verifier/collateral"
	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
	"cocoon/verifier/tdxtest"
)

// Part names an endpoint.
type Part string

// The endpoints, named as the parts of collateral that they serve.
const (
	TCBInfo    Part = collateral.PartTCBInfo
	QEIdentity Part = collateral.PartQEIdentity
	PCKCRL     Part = collateral.PartPCKCRL
	RootCRL    Part = collateral.PartRootCRL
)

// Parts lists every endpoint.
func Parts() []Part { return []Part{TCBInfo, QEIdentity, PCKCRL, RootCRL} }

// Entry is collateral that the server answers with.
type Entry struct {
	TEE   string // "tdx" or "sgx"
	FMSPC [6]byte
	CA    pck.CA
	// Channel is "standard" or "early"; empty: standard. A request for an
	// evaluation number is answered from the entry that has this Evaluation.
	Channel    string
	Evaluation int
	Raw        *collateral.Raw
}

// Fault is one way to misbehave. Its fields apply together, where they make
// sense together.
type Fault struct {
	Status     int               // answer with this status and no body
	RetryAfter string            // header of that answer
	Redirect   string            // redirect there
	Hold       <-chan struct{}   // answer only once this is closed, or the client has gone
	Header     map[string]string // set these headers, or take them away where the value is empty
	// Body changes the answer's body.
	Body func([]byte) []byte
	// Times is how many requests are treated so; 0: all of them.
	Times int
}

// Ready faults.
var (
	// WrongSignature changes one byte of the signature, of a document or CRL.
	WrongSignature = Fault{Body: flipSignature}
	// Garbage answers with what is no JSON, no DER and no hex.
	Garbage = Fault{Body: func([]byte) []byte { return []byte("<html>proxy error</html>") }}
	// Oversized answers with more than any client should take.
	Oversized = Fault{Body: func([]byte) []byte { return make([]byte, 16<<20) }}
)

// Server is an http.Handler. It is safe for concurrent use.
type Server struct {
	mu       sync.Mutex
	entries  []Entry
	faults   map[Part]*Fault
	requests map[Part]int
	urls     []string
}

// New returns a server without collateral.
func New() *Server { return &Server{faults: map[Part]*Fault{}, requests: map[Part]int{}} }

// NewDefault returns a server with the test PKI's default collateral for TDX
// and SGX, as of tdxtest.Now.
func NewDefault(pki *tdxtest.PKI) (*Server, error) {
	s := New()
	for tee, typ := range map[string]uint32{"tdx": quote.TEETDX, "sgx": quote.TEESGX} {
		c := tdxtest.DefaultCollateral(typ)
		if err := s.AddMade(pki, tee, "", &c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// AddMade makes collateral by the test PKI and adds it.
func (s *Server) AddMade(pki *tdxtest.PKI, tee, channel string, c *tdxtest.Collateral) error {
	raw, err := pki.Collateral(c)
	if err != nil {
		return fmt.Errorf("making collateral: %w", err)
	}
	ca := c.CA
	if ca == "" {
		ca = pck.PlatformCA
	}
	s.Add(Entry{TEE: tee, FMSPC: c.Info.FMSPC, CA: ca, Channel: channel, Evaluation: c.Info.Evaluation, Raw: raw})
	return nil
}

// Add adds collateral. A later entry wins over an earlier one.
func (s *Server) Add(e Entry) {
	if e.Channel == "" {
		e.Channel = "standard"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = append([]Entry{e}, s.entries...)
}

// Misbehave makes an endpoint misbehave from now on; nil makes it behave.
func (s *Server) Misbehave(p Part, f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == nil {
		delete(s.faults, p)
		return
	}
	own := *f
	s.faults[p] = &own
}

// Requests returns how many requests an endpoint has had.
func (s *Server) Requests(p Part) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[p]
}

// Total returns how many requests all endpoints have had.
func (s *Server) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		n += r
	}
	return n
}

// URLs returns every request's path and query, in order.
func (s *Server) URLs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.urls...)
}

// ServeHTTP answers a request of the API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var p Part
	switch path := r.URL.Path; {
	case path == "/sgx/certification/v4/pckcrl":
		p = PCKCRL
	case path == "/sgx/certification/v4/rootcacrl", path == "/IntelSGXRootCA.der":
		p = RootCRL
	case strings.HasSuffix(path, "/certification/v4/tcb"):
		p = TCBInfo
	case strings.HasSuffix(path, "/certification/v4/qe/identity"):
		p = QEIdentity
	default:
		http.NotFound(w, r)
		return
	}
	fault := s.count(p, r)
	if fault.Hold != nil {
		select {
		case <-fault.Hold:
		case <-r.Context().Done():
			return
		case <-time.After(time.Minute): // a test that forgot to let go
			return
		}
	}
	if fault.Redirect != "" {
		http.Redirect(w, r, fault.Redirect, http.StatusFound)
		return
	}
	if fault.Status != 0 {
		if fault.RetryAfter != "" {
			w.Header().Set("Retry-After", fault.RetryAfter)
		}
		w.WriteHeader(fault.Status)
		return
	}
	body, status := s.answer(p, r, w.Header())
	if status != http.StatusOK {
		w.WriteHeader(status)
		return
	}
	for k, v := range fault.Header {
		if v == "" {
			w.Header().Del(k)
		} else {
			w.Header().Set(k, v)
		}
	}
	if fault.Body != nil {
		body = fault.Body(append([]byte(nil), body...))
	}
	_, _ = w.Write(body)
}

// count notes a request and returns the fault it meets.
func (s *Server) count(p Part, r *http.Request) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[p]++
	s.urls = append(s.urls, r.URL.RequestURI())
	f := s.faults[p]
	if f == nil {
		return Fault{}
	}
	out := *f
	if f.Times > 0 {
		if f.Times--; f.Times == 0 {
			delete(s.faults, p)
		}
	}
	return out
}

// answer finds the entry that a request asks for.
func (s *Server) answer(p Part, r *http.Request, h http.Header) ([]byte, int) {
	q := r.URL.Query()
	tee := "sgx"
	if strings.HasPrefix(r.URL.Path, "/tdx/") {
		tee = "tdx"
	}
	channel, number := q.Get("update"), q.Get("tcbEvaluationDataNumber")
	if channel != "" && number != "" {
		return nil, http.StatusBadRequest
	}
	if channel == "" {
		channel = "standard"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		wanted := e.Channel == channel
		if number != "" {
			wanted = strconv.Itoa(e.Evaluation) == number
		}
		raw := e.Raw
		switch p {
		case TCBInfo:
			if wanted && e.TEE == tee && strings.EqualFold(q.Get("fmspc"), hex.EncodeToString(e.FMSPC[:])) {
				h.Set("TCB-Info-Issuer-Chain", url.PathEscape(string(raw.TCBInfoIssuerChain)))
				return document("tcbInfo", raw.TCBInfo, raw.TCBInfoSignature), http.StatusOK
			}
		case QEIdentity:
			if wanted && e.TEE == tee {
				h.Set("SGX-Enclave-Identity-Issuer-Chain", url.PathEscape(string(raw.QEIdentityIssuerChain)))
				return document("enclaveIdentity", raw.QEIdentity, raw.QEIdentitySignature), http.StatusOK
			}
		case PCKCRL:
			if string(e.CA) == q.Get("ca") {
				h.Set("SGX-PCK-CRL-Issuer-Chain", url.PathEscape(string(raw.PCKCRLIssuerChain)))
				if q.Get("encoding") == "der" {
					return raw.PCKCRL, http.StatusOK
				}
				return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: raw.PCKCRL}), http.StatusOK
			}
		case RootCRL:
			if strings.HasSuffix(r.URL.Path, ".der") {
				return raw.RootCACRL, http.StatusOK // as Intel's distribution point
			}
			return []byte(hex.EncodeToString(raw.RootCACRL)), http.StatusOK // as a PCCS
		}
	}
	return nil, http.StatusNotFound
}

// document wraps signed bytes as the API does, without touching them.
func document(name string, body, sig []byte) []byte {
	return fmt.Appendf(nil, "{%q:%s,\"signature\":%q}", name, body, hex.EncodeToString(sig))
}

// flipSignature changes the last byte that is part of a signature.
func flipSignature(b []byte) []byte {
	var doc map[string]json.RawMessage
	if json.Unmarshal(b, &doc) == nil {
		i := len(b) - 3 // the last hex digit, before `"}`
		if b[i] == '0' {
			b[i] = '1'
		} else {
			b[i] = '0'
		}
		return b
	}
	// In a CRL the last bytes are the signature's s, as DER or as hex.
	i := len(b) - 1
	if b[i] == '1' {
		b[i] = '2'
	} else if b[i] == '2' {
		b[i] = '1'
	} else {
		b[i] ^= 1
	}
	return b
}
