package tpm

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// Pending keeps enrolments under way. What it keeps is sealed: it can lose a
// record, and no more. Replicas of a verifier share one (package shared), and
// the AK authority, whose key seals.
type Pending interface {
	// Put keeps a record until ttl has passed, within bounds: of one endorsement
	// key MaxPendingPerEK, of which the oldest gives way, and max of all
	// (ErrPendingFull).
	Put(ctx context.Context, session, ek digest.SHA256, record []byte, ttl time.Duration, max int) error
	// Take returns a record, once; nil: it is unknown, taken or has expired.
	Take(ctx context.Context, session digest.SHA256) ([]byte, error)
	// Len is how many there are, as far as it is known without asking.
	Len() int
}

// Bounds of what is kept.
const (
	MaxPendingPerEK  = 4
	MaxPendingRecord = 32 << 10
)

// ErrPendingFull is Put's error where too many enrolments are under way.
var ErrPendingFull = errors.New("too many enrolments are under way")

// memoryPending keeps records in this process.
type memoryPending struct {
	clock func() time.Time

	mu      sync.Mutex
	records map[digest.SHA256]*pendingRecord
}

type pendingRecord struct {
	ek             digest.SHA256
	record         []byte
	began, expires time.Time
}

// Put implements Pending.
func (m *memoryPending) Put(_ context.Context, session, ek digest.SHA256, record []byte, ttl time.Duration, max int) error {
	now := m.clock()
	m.mu.Lock()
	defer m.mu.Unlock()
	var oldest digest.SHA256
	same := 0
	for id, q := range m.records {
		if !now.Before(q.expires) {
			delete(m.records, id)
			continue
		}
		if q.ek == ek {
			if same == 0 || q.began.Before(m.records[oldest].began) {
				oldest = id
			}
			same++
		}
	}
	if same >= MaxPendingPerEK {
		delete(m.records, oldest)
	}
	if len(m.records) >= max {
		return ErrPendingFull
	}
	m.records[session] = &pendingRecord{ek, record, now, now.Add(ttl)}
	return nil
}

// Take implements Pending.
func (m *memoryPending) Take(_ context.Context, session digest.SHA256) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.records[session]
	delete(m.records, session)
	if q == nil || !m.clock().Before(q.expires) {
		return nil, nil
	}
	return q.record, nil
}

// Len returns how many are kept.
func (m *memoryPending) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records)
}

// enrolment is what Finish needs of Begin.
type enrolment struct {
	Credential []byte    `json:"credential"`
	EKRoot     []byte    `json:"ek_root"` // DER
	Public     []byte    `json:"public"`  // TPMT_PUBLIC of the AK
	Expires    time.Time `json:"expires"`
}

// sealLabel separates the sealing key from any other use of the authority's.
const sealLabel = "cocoon enrolment under way v1"

// sealer seals records under a key that whoever has the AK authority's key has:
// HKDF-SHA-256 of its PKCS #8 form.
func sealer(ca *CA) (cipher.AEAD, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.Key)
	if err != nil {
		return nil, fmt.Errorf("making enroller: the AK authority's key: %w", err)
	}
	key, err := hkdf.Key(sha256.New, der, nil, sealLabel, 32)
	if err != nil {
		return nil, fmt.Errorf("making enroller: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("making enroller: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("making enroller: %w", err)
	}
	return aead, nil
}

// seal encrypts an enrolment for its session.
func (e *Enroller) seal(session digest.SHA256, p *enrolment) ([]byte, error) {
	b, err := jcs.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("sealing enrolment: %w", err)
	}
	nonce := make([]byte, e.sealer.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("sealing enrolment: %w", err)
	}
	return e.sealer.Seal(nonce, nonce, b, session[:]), nil
}

// unseal decrypts what seal has made for this session, and finds the authority
// that the endorsement key was of among those that count now.
func (e *Enroller) unseal(session digest.SHA256, record []byte) (*enrolment, *x509.Certificate, error) {
	n := e.sealer.NonceSize()
	if len(record) < n || len(record) > MaxPendingRecord {
		return nil, nil, fmt.Errorf("reading enrolment of %d bytes", len(record))
	}
	b, err := e.sealer.Open(nil, record[:n], record[n:], session[:])
	if err != nil {
		return nil, nil, fmt.Errorf("reading enrolment: %w", err)
	}
	var p enrolment
	if err := jcs.Decode(b, MaxPendingRecord, &p); err != nil {
		return nil, nil, fmt.Errorf("reading enrolment: %w", err)
	}
	for _, root := range e.o.EKRoots {
		if bytes.Equal(root.Raw, p.EKRoot) {
			return &p, root, nil
		}
	}
	return nil, nil, errors.New("reading enrolment: its endorsement key's authority is none that counts now")
}
