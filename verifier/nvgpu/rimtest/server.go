package rimtest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"cocoon/verifier/nvgpu/ocsp"
)

// Server answers as NVIDIA's RIM service does under /v1/rim/, and as its OCSP
// responder on POST to / or /ocsp. It is safe for concurrent use.
type Server struct {
	mu       sync.Mutex
	rims     map[string][]byte
	issued   []issued
	answers  map[string]Answer // by serial number, hex
	requests map[string]int    // by path; OCSP: "ocsp"
	// status, where not 0, is what every request is answered with; edit
	// changes the fields of a RIM answer; answers wait until hold is
	// closed. See Misbehave.
	status int
	edit   func(map[string]any)
	hold   <-chan struct{}
}

type issued struct {
	cert   *Authority
	issuer *Authority
}

// NewServer returns a server without content.
func NewServer() *Server {
	return &Server{rims: map[string][]byte{}, answers: map[string]Answer{}, requests: map[string]int{}}
}

// Put sets the document of an id; nil takes it away.
func (s *Server) Put(id string, doc []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rims[id] = doc; doc == nil {
		delete(s.rims, id)
	}
}

// Issued makes the responder know a certificate and its issuer.
func (s *Server) Issued(cert, issuer *Authority) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued = append(s.issued, issued{cert, issuer})
}

// Answer sets what the responder says of a certificate; the nonce of a
// request is echoed unless Nonce is set.
func (s *Server) Answer(cert *Authority, a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[cert.Cert.SerialNumber.Text(16)] = a
}

// Misbehave sets a status to answer everything with (0: none), an edit of the
// fields of RIM answers, and a channel that answers wait for.
func (s *Server) Misbehave(status int, edit func(map[string]any), hold <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.edit, s.hold = status, edit, hold
}

// Requests returns how often a path was asked for; "ocsp" for the responder.
func (s *Server) Requests(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[path]
}

// ServeHTTP answers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	path := r.URL.Path
	if r.Method == http.MethodPost {
		path = "ocsp"
	}
	s.requests[path]++
	status, hold := s.status, s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	switch id, ok := strings.CutPrefix(path, "/v1/rim/"); {
	case status != 0:
		w.WriteHeader(status)
	case path == "ocsp":
		s.serveOCSP(w, r)
	case ok && id == "ids":
		s.serveIDs(w)
	case ok:
		s.serveRIM(w, id)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) serveIDs(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []string{}
	for id := range s.rims {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	writeJSON(w, map[string]any{"ids": ids, "request_id": "test", "last_updated": Now})
}

func (s *Server) serveRIM(w http.ResponseWriter, id string) {
	s.mu.Lock()
	doc, edit := s.rims[id], s.edit
	s.mu.Unlock()
	if doc == nil {
		w.WriteHeader(http.StatusNotFound)
		writeJSON(w, map[string]any{"message": "RIM_NOT_FOUND", "request_id": "test"})
		return
	}
	sum := sha256.Sum256(doc)
	a := map[string]any{"id": id, "rim": doc, "sha256": hex.EncodeToString(sum[:]), "rim_format": "TCG", "last_updated": Now, "request_id": "test"}
	if edit != nil {
		edit(a)
	}
	writeJSON(w, a)
}

func (s *Server) serveOCSP(w http.ResponseWriter, r *http.Request) {
	der, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil {
		return // the client has gone
	}
	req, err := ocsp.ParseRequest(der)
	if err != nil || r.Header.Get("Content-Type") != ocsp.RequestType {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	a := s.answers[req.Serial.Text(16)]
	known := slices.Clone(s.issued)
	s.mu.Unlock()
	w.Header().Set("Content-Type", ocsp.ResponseType)
	for _, i := range known {
		if i.cert.Cert.SerialNumber.Cmp(req.Serial) != 0 {
			continue
		}
		if a.Nonce == nil {
			a.Nonce = req.Nonce
		}
		out, err := OCSP(i.cert.Cert, i.issuer, a)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(out) // the client has gone
		return
	}
	_, _ = w.Write([]byte{0x30, 3, 0x0a, 1, 6}) // unauthorized
}

func writeJSON(w http.ResponseWriter, v any) {
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
