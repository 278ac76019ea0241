package journal

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// First lines of a promise and of the note in it. A checkpoint's first line is an
// origin, which has no '@': none of them can be taken for another.
const (
	promiseHead = "cocoon-log-promise@v2"
	groupHead   = "cocoon-log-group@v1"
)

// maxPromise bounds a promise, in bytes; maxPath the hashes of its path, which
// are as many as a group of maxGroup needs.
const (
	maxPromise = 4 << 10
	maxPath    = 10
)

// Promise is the log's signed word that an entry is at an index of it. A log
// whose checkpoint of a larger size does not have it there broke its word, and
// the two documents together show that.
//
// The log signs once for the entries that became durable by one write: where
// they begin, how many they are, and the root of a Merkle tree over them alone
// (RFC 6962, section 2.1). A promise is that note under the entry's index, its
// leaf, and the path from the one to the other.
type Promise struct {
	Origin string        `json:"origin"`
	Index  uint64        `json:"index"`
	Leaf   digest.SHA256 `json:"leaf"`
}

// group is what one write made durable.
type group struct {
	first  uint64
	leaves []digest.SHA256

	once   sync.Once
	levels [][]digest.SHA256 // of the tree over leaves: leaves first, the root last
	note   []byte            // signed
	err    error
}

// grown returns the levels of the tree over leaves. A node without a sibling is
// its parent: that is the tree of RFC 6962, whose left subtrees are as large as
// can be.
func grown(leaves []digest.SHA256) [][]digest.SHA256 {
	levels := [][]digest.SHA256{leaves}
	for below := leaves; len(below) > 1; {
		level := make([]digest.SHA256, 0, (len(below)+1)/2)
		for i := 0; i+1 < len(below); i += 2 {
			level = append(level, digest.SHA256(rfc6962.DefaultHasher.HashChildren(below[i][:], below[i+1][:])))
		}
		if len(below)%2 == 1 {
			level = append(level, below[len(below)-1])
		}
		levels = append(levels, level)
		below = level
	}
	return levels
}

// path returns the hashes beside the way from a leaf to the root.
func (g *group) path(i int) []digest.SHA256 {
	var out []digest.SHA256
	for _, level := range g.levels[:len(g.levels)-1] {
		if sibling := i ^ 1; sibling < len(level) {
			out = append(out, level[sibling])
		}
		i /= 2
	}
	return out
}

func groupText(origin string, first, count uint64, root *digest.SHA256) string {
	return groupHead + "\n" + origin + "\n" + strconv.FormatUint(first, 10) + "\n" + strconv.FormatUint(count, 10) + "\n" +
		base64.StdEncoding.EncodeToString(root[:]) + "\n"
}

func promiseText(p *Promise, path []digest.SHA256, signed []byte) []byte {
	const line = 45 // of a hash
	b := make([]byte, 0, len(promiseHead)+32+line*(1+len(path))+len(signed))
	b = append(append(b, promiseHead...), '\n')
	b = append(strconv.AppendUint(b, p.Index, 10), '\n')
	b = append(base64.StdEncoding.AppendEncode(b, p.Leaf[:]), '\n')
	for i := range path {
		b = append(base64.StdEncoding.AppendEncode(b, path[i][:]), '\n')
	}
	return append(append(b, '\n'), signed...)
}

// promise returns the promise of an entry of a group, which the first of them
// that asks has signed.
func (j *Journal) promise(g *group, index uint64) ([]byte, error) {
	g.once.Do(func() {
		g.levels = grown(g.leaves)
		g.note, g.err = note.Sign(&note.Note{Text: groupText(j.key.Origin, g.first, uint64(len(g.leaves)), &g.levels[len(g.levels)-1][0])}, j.signer)
	})
	if g.err != nil {
		return nil, fmt.Errorf("signing promise: %w", g.err)
	}
	i := int(index - g.first)
	return promiseText(&Promise{Index: index, Leaf: g.leaves[i]}, g.path(i), g.note), nil
}

// PromisedPlace returns the log and the index that a promise names, unverified:
// for a hint where to ask. ok is false where it has no promise's form.
func PromisedPlace(raw []byte) (origin string, index uint64, ok bool) {
	top, signed, _ := bytes.Cut(raw, []byte("\n\n"))
	lines, group := strings.SplitN(string(top), "\n", 3), strings.SplitN(string(signed), "\n", 3)
	if len(raw) > maxPromise || len(lines) < 3 || lines[0] != promiseHead || len(group) < 3 || group[0] != groupHead {
		return "", 0, false
	}
	index, err := strconv.ParseUint(lines[1], 10, 63)
	return group[1], index, err == nil
}

// OpenPromise verifies a promise as one of the key's log.
func OpenPromise(raw []byte, k log.Key) (*Promise, error) {
	bad := func() (*Promise, error) { return nil, fmt.Errorf("opening promise: %w", log.ErrForm) }
	if len(raw) > maxPromise {
		return nil, fmt.Errorf("opening promise of %d bytes: %w", len(raw), log.ErrForm)
	}
	top, signed, ok := bytes.Cut(raw, []byte("\n\n"))
	lines := strings.Split(string(top), "\n")
	if !ok || len(lines) < 3 || len(lines) > 3+maxPath || lines[0] != promiseHead {
		return bad()
	}
	p := &Promise{Origin: k.Origin}
	var hashes []digest.SHA256 // the leaf's first
	for _, l := range lines[2:] {
		h, err := base64.StdEncoding.Strict().DecodeString(l)
		if err != nil || len(h) != len(p.Leaf) {
			return bad()
		}
		hashes = append(hashes, digest.SHA256(h))
	}
	var err error
	if p.Index, err = strconv.ParseUint(lines[1], 10, 63); err != nil {
		return bad()
	}
	p.Leaf = hashes[0]
	if !bytes.Equal(promiseText(p, hashes[1:], signed), raw) {
		return bad()
	}
	v, err := note.NewVerifier(k.String())
	if err != nil {
		return nil, fmt.Errorf("opening promise: %w", err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return nil, fmt.Errorf("opening promise: %w: %w", log.ErrSignature, err)
	}
	// One form alone: package note takes other signatures beside, and any end of
	// the base64.
	if _, err := base64.StdEncoding.Strict().DecodeString(n.Sigs[0].Base64); err != nil || len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 0 {
		return bad()
	}
	if !p.in(n.Text, hashes[1:]) {
		return bad()
	}
	return p, nil
}

// in reports whether the signed text of a group is of one that has the promise's
// entry, by the path.
func (p *Promise) in(text string, path []digest.SHA256) bool {
	lines := strings.Split(text, "\n")
	if len(lines) != 6 {
		return false
	}
	first, err1 := strconv.ParseUint(lines[2], 10, 63)
	count, err2 := strconv.ParseUint(lines[3], 10, 63)
	if err1 != nil || err2 != nil || count > maxGroup || p.Index < first || p.Index-first >= count {
		return false
	}
	hashes := make([][]byte, len(path))
	for i := range path {
		hashes[i] = path[i][:]
	}
	root, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, p.Index-first, count, p.Leaf[:], hashes)
	if err != nil {
		return false
	}
	d := digest.SHA256(root)
	return groupText(p.Origin, first, count, &d) == text
}
