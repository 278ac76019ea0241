package server

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"cocoon/verifier/evidence"
)

// maxOwnEvidence bounds the evidence that the description of the service
// carries, in bytes.
const maxOwnEvidence = 2 << 20

// OwnEvidence returns the evidence of the machine that the service runs in, as
// whoever collects it there last did: the supervisor of a confidential VM.
type OwnEvidence interface {
	Evidence(ctx context.Context) ([]byte, error)
}

// EvidenceFile is OwnEvidence in a file that is replaced by rename whenever
// there is newer.
func EvidenceFile(path string) OwnEvidence { return &evidenceFile{path: path} }

type evidenceFile struct {
	path string

	mu   sync.Mutex
	time time.Time // of the file that doc is from
	size int64
	doc  []byte
}

// Evidence implements OwnEvidence. The file is read again when it has changed.
func (f *evidenceFile) Evidence(context.Context) ([]byte, error) {
	st, err := os.Stat(f.path)
	if err != nil {
		return nil, fmt.Errorf("reading own evidence: %w", err)
	}
	if st.Size() > maxOwnEvidence {
		return nil, fmt.Errorf("reading own evidence: %d bytes, limit %d", st.Size(), maxOwnEvidence)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.doc != nil && st.ModTime().Equal(f.time) && st.Size() == f.size {
		return f.doc, nil
	}
	b, err := os.ReadFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("reading own evidence: %w", err)
	}
	if _, err := evidence.Parse(b); err != nil {
		return nil, fmt.Errorf("reading own evidence: %w", err)
	}
	f.doc, f.time, f.size = b, st.ModTime(), st.Size()
	return b, nil
}

// ownEvidence is what the description carries: nothing where there is none, and
// nothing where it cannot be read. It is for whoever asks to appraise.
func (s *Server) ownEvidence(ctx context.Context) json.RawMessage {
	if s.o.Own == nil {
		return nil
	}
	b, err := s.o.Own.Evidence(ctx)
	if err != nil {
		s.log.ErrorContext(ctx, "own evidence is not there", "error", err)
		return nil
	}
	return b
}
