// Package kdstest is a key distribution service for tests: it answers as AMD's
// KDS does, with certificates that the test PKI makes for any chip that the
// test names, and misbehaves on demand.
package kdstest

import (
	"encoding/hex"
	"net/http"
	"strings"
	"sync"

	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
)

// Fault is one way to misbehave.
type Fault struct {
	Status     int                 // answer with this status and no body
	RetryAfter string              // header of that answer
	Redirect   string              // redirect there
	Hold       <-chan struct{}     // answer only once this is closed, or the client has gone
	Body       func([]byte) []byte // change the answer's body
	Times      int                 // how many requests are treated so; 0: all of them
}

// Kinds of documents.
const (
	VCEK  = "vcek"
	Chain = "cert_chain"
	CRL   = "crl"
)

// Server is an http.Handler. It is safe for concurrent use.
type Server struct {
	pki *snptest.PKI

	mu       sync.Mutex
	chips    map[string]snptest.Cert // by product, hwID and query
	crls     map[report.Product]snptest.CRL
	faults   map[string]*Fault
	requests map[string]int
	urls     []string
}

// New returns a server that knows no chip, and a CRL that revokes nothing for
// each product line.
func New(pki *snptest.PKI) *Server {
	s := &Server{pki: pki, chips: map[string]snptest.Cert{}, crls: map[report.Product]snptest.CRL{}, faults: map[string]*Fault{}, requests: map[string]int{}}
	for _, p := range []report.Product{report.Milan, report.Genoa, report.Turin} {
		s.crls[p] = snptest.DefaultCRL(p)
	}
	return s
}

// Add makes the chip of a report known, at the report's TCB version.
func (s *Server) Add(r *snptest.Report) {
	c := snptest.CertFor(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chips[string(c.Line)+" "+hex.EncodeToString(c.ChipID)] = c
}

// SetCRL sets the list of a product line.
func (s *Server) SetCRL(c snptest.CRL) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crls[c.Line] = c
}

// Misbehave makes a kind of document misbehave from now on; nil makes it
// behave.
func (s *Server) Misbehave(kind string, f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.faults, kind)
	if f != nil {
		own := *f
		s.faults[kind] = &own
	}
}

// Requests returns how many requests a kind of document has had.
func (s *Server) Requests(kind string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[kind]
}

// URLs returns every request's path and query, in order.
func (s *Server) URLs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.urls...)
}

// ServeHTTP answers a request: /{vcek|vlek}/v1/{product}/{cert_chain|crl|hwID}.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if len(parts) != 4 || (parts[0] != "vcek" && parts[0] != "vlek") || parts[1] != "v1" {
		http.NotFound(w, r)
		return
	}
	kind := VCEK
	if parts[3] == Chain || parts[3] == CRL {
		kind = parts[3]
	}
	f := s.count(kind, r)
	if f.Hold != nil {
		select {
		case <-f.Hold:
		case <-r.Context().Done():
			return
		}
	}
	if f.Redirect != "" {
		http.Redirect(w, r, f.Redirect, http.StatusFound)
		return
	}
	if f.Status != 0 {
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		w.WriteHeader(f.Status)
		return
	}
	body, err := s.answer(kind, parts, r)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	case body == nil:
		http.NotFound(w, r)
		return
	}
	if f.Body != nil {
		body = f.Body(append([]byte(nil), body...))
	}
	_, _ = w.Write(body)
}

// count notes a request and returns the fault it meets.
func (s *Server) count(kind string, r *http.Request) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[kind]++
	s.urls = append(s.urls, r.URL.RequestURI())
	f := s.faults[kind]
	if f == nil {
		return Fault{}
	}
	out := *f
	if f.Times > 0 {
		if f.Times--; f.Times == 0 {
			delete(s.faults, kind)
		}
	}
	return out
}

func (s *Server) answer(kind string, parts []string, r *http.Request) ([]byte, error) {
	line := report.Product(parts[2])
	s.mu.Lock()
	list, known := s.crls[line]
	cert, hasChip := s.chips[parts[2]+" "+strings.ToLower(parts[3])]
	s.mu.Unlock()
	if !known {
		return nil, nil
	}
	switch kind {
	case Chain:
		signer := report.VCEK
		if parts[0] == "vlek" {
			signer = report.VLEK
		}
		return s.pki.Chain(line, signer), nil
	case CRL:
		return s.pki.CRL(&list)
	}
	q := r.URL.Query()
	if !hasChip || parts[0] != "vcek" || q.Has("fmcSPL") != (line == report.Turin) {
		return nil, nil
	}
	for name, v := range map[string]uint8{"blSPL": cert.TCB.Bootloader, "teeSPL": cert.TCB.TEE, "snpSPL": cert.TCB.SNP, "ucodeSPL": cert.TCB.Microcode, "fmcSPL": cert.TCB.FMC} {
		if got := strings.TrimLeft(q.Get(name), "0"); got != strings.TrimLeft(decimal(v), "0") {
			return nil, nil
		}
	}
	return s.pki.Certificate(&cert)
}

func decimal(n uint8) string {
	return string([]byte{'0' + n/100, '0' + n/10%10, '0' + n%10})
}
