package journal

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// promiseHead is the first line of a promise. A checkpoint's first line is an
// origin, which has no '@': neither can be taken for the other.
const promiseHead = "cocoon-log-promise@v1"

// maxPromise bounds a promise, in bytes.
const maxPromise = 4 << 10

// Promise is the log's signed word that an entry is at an index of it. A log
// whose checkpoint of a larger size does not have it there broke its word, and
// the two documents together show that.
type Promise struct {
	Origin string        `json:"origin"`
	Index  uint64        `json:"index"`
	Leaf   digest.SHA256 `json:"leaf"`
}

func (p *Promise) text() string {
	return fmt.Sprintf("%s\n%s\n%d\n%s\n", promiseHead, p.Origin, p.Index, base64.StdEncoding.EncodeToString(p.Leaf[:]))
}

func (j *Journal) promise(r *Receipt) ([]byte, error) {
	p := Promise{Origin: j.key.Origin, Index: r.Index, Leaf: r.Leaf}
	raw, err := note.Sign(&note.Note{Text: p.text()}, j.signer)
	if err != nil {
		return nil, fmt.Errorf("signing promise: %w", err)
	}
	return raw, nil
}

// OpenPromise verifies a signed note as a promise of the key's log.
func OpenPromise(raw []byte, k log.Key) (*Promise, error) {
	if len(raw) > maxPromise {
		return nil, fmt.Errorf("opening promise of %d bytes: %w", len(raw), log.ErrForm)
	}
	v, err := note.NewVerifier(k.String())
	if err != nil {
		return nil, fmt.Errorf("opening promise: %w", err)
	}
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		return nil, fmt.Errorf("opening promise: %w: %w", log.ErrSignature, err)
	}
	p := &Promise{Origin: k.Origin}
	if lines := strings.Split(n.Text, "\n"); len(lines) == 5 {
		index, err1 := strconv.ParseUint(lines[2], 10, 63)
		leaf, err2 := base64.StdEncoding.Strict().DecodeString(lines[3])
		if err1 == nil && err2 == nil && len(leaf) == 32 {
			p.Index, p.Leaf = index, digest.SHA256(leaf)
			if p.text() == n.Text {
				return p, nil
			}
		}
	}
	return nil, fmt.Errorf("opening promise: %w", log.ErrForm)
}
