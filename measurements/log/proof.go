package log

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"cocoon/measurements/digest"
)

// First lines of the two proof documents. The first is C2SP tlog-proof; the
// second has the same form for consistency and is this project's own.
const (
	headInclusion   = "c2sp.org/tlog-proof@v1"
	headConsistency = "cocoon-tlog-consistency@v1"
)

// Inclusion is a self-contained proof that an entry is in a log: an index, the
// hashes of the path, and the signed checkpoint they lead to.
type Inclusion struct {
	Index      uint64
	Hashes     []digest.SHA256
	Checkpoint []byte // signed note
}

// Consistency is a self-contained proof that a log has every entry of an
// earlier state.
type Consistency struct {
	Hashes     []digest.SHA256
	Earlier    []byte // signed note
	Checkpoint []byte // signed note
}

// Text writes the proof (C2SP tlog-proof).
func (p *Inclusion) Text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nindex %d\n", headInclusion, p.Index)
	writeHashes(&b, p.Hashes)
	b.WriteByte('\n')
	b.Write(p.Checkpoint)
	return b.Bytes()
}

// Text writes the proof.
func (p *Consistency) Text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nearlier %s\n", headConsistency, base64.StdEncoding.EncodeToString(p.Earlier))
	writeHashes(&b, p.Hashes)
	b.WriteByte('\n')
	b.Write(p.Checkpoint)
	return b.Bytes()
}

func writeHashes(b *bytes.Buffer, hs []digest.SHA256) {
	for _, h := range hs {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]))
		b.WriteByte('\n')
	}
}

// ParseInclusion reads a proof in exactly the form that Text gives it.
func ParseInclusion(doc []byte) (*Inclusion, error) {
	value, hashes, cp, err := parseProof(doc, headInclusion, "index ")
	if err != nil {
		return nil, err
	}
	index, err := strconv.ParseUint(value, 10, 63)
	p := &Inclusion{Index: index, Hashes: hashes, Checkpoint: cp}
	if err != nil || !bytes.Equal(p.Text(), doc) {
		return nil, fmt.Errorf("reading inclusion proof: index %.32q: %w", value, ErrForm)
	}
	return p, nil
}

// ParseConsistency reads a proof in exactly the form that Text gives it.
func ParseConsistency(doc []byte) (*Consistency, error) {
	value, hashes, cp, err := parseProof(doc, headConsistency, "earlier ")
	if err != nil {
		return nil, err
	}
	earlier, err := base64.StdEncoding.Strict().DecodeString(value)
	p := &Consistency{Hashes: hashes, Earlier: earlier, Checkpoint: cp}
	if err != nil || !bytes.Equal(p.Text(), doc) {
		return nil, fmt.Errorf("reading consistency proof: earlier checkpoint: %w", ErrForm)
	}
	return p, nil
}

func parseProof(doc []byte, head, key string) (value string, hashes []digest.SHA256, checkpoint []byte, err error) {
	if len(doc) > MaxProof {
		return "", nil, nil, fmt.Errorf("reading proof of %d bytes: %w", len(doc), ErrForm)
	}
	top, rest, ok := bytes.Cut(doc, []byte("\n\n"))
	lines := strings.Split(string(top), "\n")
	if !ok || len(lines) < 2 || len(lines) > 2+maxHashes || lines[0] != head || !strings.HasPrefix(lines[1], key) {
		return "", nil, nil, fmt.Errorf("reading proof: not a %s: %w", head, ErrForm)
	}
	for _, l := range lines[2:] {
		h, err := parseHash(l)
		if err != nil {
			return "", nil, nil, err
		}
		hashes = append(hashes, h)
	}
	return lines[1][len(key):], hashes, rest, nil
}

// Verify checks that the proof shows a manifest in the key's log, and returns
// the checkpoint that it rests on.
func (p *Inclusion) Verify(manifest digest.SHA256, k Key) (*Checkpoint, error) {
	c, err := OpenCheckpoint(p.Checkpoint, k)
	if err != nil {
		return nil, err
	}
	return c, c.CheckInclusion(manifest, p.Index, p.Hashes)
}

// Verify checks that the proof leads from one state of the key's log to a
// later one, and returns both.
func (p *Consistency) Verify(k Key) (earlier, later *Checkpoint, err error) {
	if earlier, err = OpenCheckpoint(p.Earlier, k); err != nil {
		return nil, nil, err
	}
	if later, err = OpenCheckpoint(p.Checkpoint, k); err != nil {
		return nil, nil, err
	}
	return earlier, later, later.CheckConsistency(earlier, p.Hashes)
}
