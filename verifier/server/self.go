package server

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"cocoon/verifier/evidence"
	"cocoon/verifier/self"
	"cocoon/verifier/wire"
)

// maxOwnEvidence bounds the evidence that the description of the service
// carries, in bytes.
const maxOwnEvidence = 2 << 20

// ownWait is how long somebody who asks for the description waits for evidence
// that nobody has collected yet: the host, who is not trusted, makes the quote.
const ownWait = 10 * time.Second

// OwnEvidence returns the evidence of the machine that the service runs in, over
// what the service's description says (self.Document), or as whoever collects it
// there last did: the supervisor of a confidential VM. With an error may come
// evidence that is still good, where there is no newer.
type OwnEvidence interface {
	Evidence(ctx context.Context, c self.Claims) ([]byte, error)
}

// EvidenceFile is OwnEvidence in a file that is replaced by rename whenever
// there is newer. It binds none of the service's keys.
func EvidenceFile(path string) OwnEvidence { return &evidenceFile{path: path} }

type evidenceFile struct {
	path string

	mu   sync.Mutex
	time time.Time // of the file that doc is from
	size int64
	doc  []byte
}

// Evidence implements OwnEvidence. The file is read again when it has changed.
func (f *evidenceFile) Evidence(context.Context, self.Claims) ([]byte, error) {
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

// describe returns the description of the service, with its own evidence or why
// that is not there.
func (s *Server) describe(ctx context.Context) (*wire.Info, error) {
	info := s.trust.Load().info(s.o.Build, s.o.Clock())
	info.LogKey = s.logKey()
	if s.o.Own == nil {
		return &info, nil
	}
	claims, err := self.ClaimsOf(&info)
	if err != nil {
		return &info, err
	}
	info.Evidence, err = s.o.Own.Evidence(ctx, claims)
	return &info, err
}

// CheckOwn reports why the service cannot show evidence of its machine.
func (s *Server) CheckOwn(ctx context.Context) error {
	_, err := s.describe(ctx)
	return err
}
