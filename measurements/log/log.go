// Package log verifies what a transparency log of manifests says: signed
// checkpoints, that a manifest is in the log, and that a later log has every
// entry of an earlier one. In come texts that anyone may have written and the
// key of the log, out come typed values that were proven. It writes nothing;
// package tiles keeps a log.
//
// Definitions: C2SP tlog-checkpoint, signed-note, tlog-tiles and tlog-proof;
// RFC 6962 section 2.1 for hashes and proofs.
package log

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/digest"
)

// Limits of documents, in bytes and counts.
const (
	MaxCheckpoint = 64 << 10
	MaxProof      = 128 << 10
	maxHashes     = 64 // a tree of 2^63 leaves has no longer proof
)

// Errors, by kind.
var (
	ErrForm      = errors.New("document of the log has a wrong form")
	ErrSignature = errors.New("checkpoint is not signed by the log's key")
	ErrProof     = errors.New("proof does not lead to the checkpoint's root hash")
)

// entryPrefix keeps entries for manifests apart from anything else that a log
// might hold.
const entryPrefix = "cocoon-manifest/v1\n"

// Entry returns the log entry for a manifest: what is logged is its identity,
// the SHA-256 of the DSSE payload.
func Entry(manifest digest.SHA256) []byte { return []byte(entryPrefix + manifest.String() + "\n") }

// ParseEntry returns the manifest that an entry names.
func ParseEntry(b []byte) (digest.SHA256, error) {
	s, ok := strings.CutPrefix(string(b), entryPrefix)
	d, err := digest.Parse256(strings.TrimSuffix(s, "\n"))
	if !ok || err != nil || !bytes.Equal(Entry(d), b) {
		return digest.SHA256{}, fmt.Errorf("reading log entry of %d bytes: %w", len(b), ErrForm)
	}
	return d, nil
}

// LeafHash returns the hash of a manifest's entry in the tree (RFC 6962
// section 2.1).
func LeafHash(manifest digest.SHA256) digest.SHA256 {
	return digest.SHA256(rfc6962.DefaultHasher.HashLeaf(Entry(manifest)))
}

var originRE = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*(/[a-z0-9._-]+)*$`)

// Key is a log's name and public key.
type Key struct {
	Origin string
	Public ed25519.PublicKey
}

// NewKey returns a log's key under an origin, a URL without a scheme such as
// "log.example.org/cocoon".
func NewKey(origin string, public ed25519.PublicKey) (Key, error) {
	if len(origin) > 255 || !originRE.MatchString(origin) || len(public) != ed25519.PublicKeySize {
		return Key{}, fmt.Errorf("reading log key: origin %.64q, want host/path in lower case, and an Ed25519 key: %w", origin, ErrForm)
	}
	return Key{origin, public}, nil
}

// keyHash is the key id of C2SP signed-note for Ed25519, type 1.
func keyHash(origin string, public ed25519.PublicKey) uint32 {
	sum := sha256.Sum256(append([]byte(origin+"\n\x01"), public...))
	return binary.BigEndian.Uint32(sum[:])
}

// String returns the verifier key of C2SP signed-note: name, key id and key.
func (k Key) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.Origin, keyHash(k.Origin, k.Public), base64.StdEncoding.EncodeToString(append([]byte{1}, k.Public...)))
}

// MarshalText writes the verifier key.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a verifier key.
func (k *Key) UnmarshalText(b []byte) (err error) {
	*k, err = ParseKey(string(b))
	return err
}

// ParseKey reads a verifier key as String writes it.
func ParseKey(s string) (Key, error) {
	parts := strings.SplitN(s, "+", 3)
	if len(s) > 512 || len(parts) != 3 {
		return Key{}, fmt.Errorf("reading log key: want origin+id+key: %w", ErrForm)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != 1 {
		return Key{}, fmt.Errorf("reading log key: no Ed25519 key: %w", ErrForm)
	}
	k, err := NewKey(parts[0], raw[1:])
	if err == nil && k.String() != s {
		err = fmt.Errorf("reading log key: the id is not that of the key: %w", ErrForm)
	}
	return k, err
}

// Signer returns a signer of notes for a private key.
func Signer(origin string, key ed25519.PrivateKey) (note.Signer, error) {
	k, err := NewKey(origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	s, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", origin, keyHash(origin, k.Public), base64.StdEncoding.EncodeToString(append([]byte{1}, key.Seed()...))))
	if err != nil {
		return nil, fmt.Errorf("making log signer: %w", err)
	}
	return s, nil
}

// Checkpoint is the state of a log that its key signed.
type Checkpoint struct {
	Origin string        `json:"origin"`
	Size   uint64        `json:"size"`
	Root   digest.SHA256 `json:"root"`
	Raw    []byte        `json:"-"` // the signed note
}

// OpenCheckpoint verifies a signed note and reads it as a checkpoint of the
// key's log. Signatures by others, such as witnesses, do not hinder it.
func OpenCheckpoint(raw []byte, k Key) (*Checkpoint, error) {
	if len(raw) > MaxCheckpoint {
		return nil, fmt.Errorf("opening checkpoint of %d bytes: %w", len(raw), ErrForm)
	}
	v, err := note.NewVerifier(k.String())
	if err != nil {
		return nil, fmt.Errorf("opening checkpoint: %w: %w", ErrForm, err)
	}
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		var unverified *note.UnverifiedNoteError
		var invalid *note.InvalidSignatureError
		if errors.As(err, &unverified) || errors.As(err, &invalid) {
			return nil, fmt.Errorf("opening checkpoint: %w: %w", ErrSignature, err)
		}
		return nil, fmt.Errorf("opening checkpoint: %w: %w", ErrForm, err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] != k.Origin {
		return nil, fmt.Errorf("opening checkpoint: %w: want origin %s, size and root", ErrForm, k.Origin)
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	root, err2 := parseHash(lines[2])
	if err != nil || err2 != nil || strconv.FormatUint(size, 10) != lines[1] {
		return nil, fmt.Errorf("opening checkpoint: %w: size or root", ErrForm)
	}
	return &Checkpoint{Origin: k.Origin, Size: size, Root: root, Raw: raw}, nil
}

func parseHash(s string) (digest.SHA256, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 32 {
		return digest.SHA256{}, fmt.Errorf("reading hash: %w", ErrForm)
	}
	return digest.SHA256(b), nil
}

// CheckInclusion checks that the entry of a manifest is in the log at an
// index.
func (c *Checkpoint) CheckInclusion(manifest digest.SHA256, index uint64, hashes []digest.SHA256) error {
	leaf := LeafHash(manifest)
	if index >= c.Size || len(hashes) > maxHashes {
		return fmt.Errorf("checking inclusion: index %d in a log of %d entries: %w", index, c.Size, ErrProof)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, c.Size, leaf[:], rawHashes(hashes), c.Root[:]); err != nil {
		return fmt.Errorf("checking inclusion of manifest %s: %w: %w", manifest, ErrProof, err)
	}
	return nil
}

// CheckConsistency checks that a log has every entry of an earlier state of
// it, unchanged.
func (c *Checkpoint) CheckConsistency(earlier *Checkpoint, hashes []digest.SHA256) error {
	switch {
	case earlier.Origin != c.Origin:
		return fmt.Errorf("checking consistency: %s and %s are two logs: %w", earlier.Origin, c.Origin, ErrProof)
	case earlier.Size > c.Size || len(hashes) > maxHashes:
		return fmt.Errorf("checking consistency: from %d to %d entries: %w", earlier.Size, c.Size, ErrProof)
	case earlier.Size == 0:
		if len(hashes) != 0 || earlier.Root != digest.Sum256(nil) {
			return fmt.Errorf("checking consistency: the empty log has another root or a proof: %w", ErrProof)
		}
		return nil
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, earlier.Size, c.Size, rawHashes(hashes), earlier.Root[:], c.Root[:]); err != nil {
		return fmt.Errorf("checking consistency from %d to %d entries: %w: %w", earlier.Size, c.Size, ErrProof, err)
	}
	return nil
}

func rawHashes(ds []digest.SHA256) [][]byte {
	out := make([][]byte, len(ds))
	for i := range ds {
		out[i] = ds[i][:]
	}
	return out
}

// ID returns a short name for a key, for people.
func (k Key) ID() string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], keyHash(k.Origin, k.Public))
	return k.Origin + "+" + hex.EncodeToString(b[:])
}
