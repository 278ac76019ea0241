// Package modelpack makes and checks model packs: one read-only disk with a
// model's files, deterministic to the byte, named MODEL@REVISION:ROOT.
//
// A pack is erofs (package internal/erofs), the dm-verity hash tree behind it
// (package verity), and a description of both at its end. A guest takes the
// tree's parameters from its measured config and never looks at the
// description, which is for people and tools and proves nothing; Verify
// computes everything again.
//
// An encrypted pack is the same bytes, data and tree, under AES-256-XTS as
// dm-crypt reads them (aes-xts-plain64, 512-byte sectors); the description stays
// readable and leaves the files' names out. Root and name are those of the
// plain pack: what is measured is what runs.
package modelpack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"cocoon/internal/erofs"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/internal/lazyre"
	"cocoon/measurements/digest"
	"cocoon/measurements/verity"
)

// Format names this version of packs.
const Format = "cocoon-model-pack/1"

// Cipher of encrypted packs, in dm-crypt's words.
const Cipher = "aes-xts-plain64"

// Codes of faults.
const (
	CodeSource   = "model.source"  // the directory cannot be packed
	CodeChanged  = "model.changed" // a file changed while it was read
	CodeDiskFull = "model.disk_full"
	CodeBusy     = "model.busy"    // another program writes this pack
	CodeFormat   = "model.format"  // not a pack
	CodeCorrupt  = "model.corrupt" // the bytes are not those of its name
	CodeName     = "model.name"
	CodeKey      = "model.key"
)

// Verity is the parameters of the hash tree, as a guest's config has them.
type Verity struct {
	Root       digest.SHA256 `json:"root"`
	Salt       digest.SHA256 `json:"salt"`
	DataBlocks uint64        `json:"data_blocks"`
}

// File is a file in a pack.
type File struct {
	Path string `json:"path"`
	Size uint64 `json:"size"`
}

// Description is the last part of a pack.
type Description struct {
	Format   string `json:"format"`
	Name     string `json:"name"`     // of the model: a-z0-9._-
	Revision string `json:"revision"` // a-zA-Z0-9._-
	Verity   Verity `json:"verity"`
	// MetaBlocks is how many blocks come before the files' bytes. What they say
	// and the model's name make the salt.
	MetaBlocks uint64 `json:"meta_blocks"`
	Bytes      uint64 `json:"bytes"` // of all files
	Files      []File `json:"files"` // sorted by path; none of an encrypted pack

	Cipher    string         `json:"cipher,omitempty"`     // of an encrypted pack
	KeySHA256 *digest.SHA256 `json:"key_sha256,omitempty"` // KeyID of its key
}

// ID returns MODEL@REVISION:ROOT.
func (d *Description) ID() string { return d.Name + "@" + d.Revision + ":" + d.Verity.Root.String() }

// DeviceBytes returns the size of what a guest maps: data and hash tree.
func (d *Description) DeviceBytes() int64 {
	return int64((d.Verity.DataBlocks + verity.TreeBlocks(d.Verity.DataBlocks)) * verity.BlockSize)
}

var (
	nameRE     = lazyre.New(`^[a-z0-9][a-z0-9._-]{0,63}$`) // as evidence.Config has it
	revisionRE = lazyre.New(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// CheckName refuses names and revisions of another form.
func CheckName(name, revision string) error {
	if !nameRE().MatchString(name) || !revisionRE().MatchString(revision) {
		return fault.New(fault.ExitParse, CodeName, "use a-z, 0-9, dot, _ and - for the name, also A-Z for the revision, each at most 64",
			"reading the model's name: %.80q at revision %.80q", name, revision)
	}
	return nil
}

// ParseID splits MODEL@REVISION:ROOT.
func ParseID(id string) (name, revision string, root digest.SHA256, err error) {
	model, hash, ok := strings.Cut(id, ":")
	name, revision, ok2 := strings.Cut(model, "@")
	if !ok || !ok2 || CheckName(name, revision) != nil {
		return "", "", root, fault.New(fault.ExitParse, CodeName, "write it as cocoon model show does", "reading %.200q: not of the form MODEL@REVISION:ROOT", id)
	}
	b, err := hex.DecodeString(hash)
	if err != nil || len(b) != len(root) || strings.ToLower(hash) != hash {
		return "", "", root, fault.New(fault.ExitParse, CodeName, "write it as cocoon model show does", "reading %.200q: the root is not 32 bytes of lower-case hex", id)
	}
	return name, revision, digest.SHA256(b), nil
}

func (d *Description) check() error {
	if d.Format != Format {
		return fmt.Errorf("format %.64q, want %s", d.Format, Format)
	}
	if err := CheckName(d.Name, d.Revision); err != nil {
		return err
	}
	if n := d.Verity.DataBlocks; n == 0 || n > verity.MaxDataBlocks || d.Verity.Root.IsZero() || d.MetaBlocks == 0 || d.MetaBlocks > n || d.MetaBlocks > maxMeta/verity.BlockSize {
		return fmt.Errorf("%d data blocks", n)
	}
	if (d.Cipher == "") != (d.KeySHA256 == nil) || d.Cipher != "" && d.Cipher != Cipher {
		return fmt.Errorf("cipher %.64q", d.Cipher)
	}
	if len(d.Files) > erofs.MaxFiles || d.Cipher == "" && len(d.Files) == 0 {
		return fmt.Errorf("%d files", len(d.Files))
	}
	return nil
}

// identity names the file system and salts the tree: both follow from the
// model's name and the layout, so that equal models give equal packs, and two
// models of equal bytes do not share a root.
func identity(name, revision string, meta []byte) (uuid [16]byte, salt digest.SHA256) {
	h := sha256.New()
	fmt.Fprintf(h, "cocoon-model-pack-v1\x00%s\x00%s\x00", name, revision)
	h.Write(meta)
	h.Sum(salt[:0])
	u := sha256.Sum256(append([]byte("cocoon-model-pack-uuid\x00"), salt[:]...))
	copy(uuid[:], u[:])
	// RFC 9562: version 8, custom; variant 10.
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80
	return uuid, salt
}

// The description's frame: its JSON, zeros up to a block, then the footer.
const (
	footerMagic    = "cocoonmp"
	footerSize     = len(footerMagic) + 8
	maxDescription = 32 << 20
	maxMeta        = 128 << 20 // inodes and directories of as many files as there may be
)

// appendix returns the description as it stands in the pack.
func (d *Description) appendix() ([]byte, error) {
	doc, err := jcs.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("describing pack: %w", err)
	}
	n := (len(doc) + footerSize + verity.BlockSize - 1) / verity.BlockSize * verity.BlockSize
	if n > maxDescription {
		return nil, fmt.Errorf("describing pack: %d bytes, at most %d", n, maxDescription)
	}
	out := make([]byte, n)
	copy(out, doc)
	copy(out[n-footerSize:], footerMagic)
	binary.LittleEndian.PutUint64(out[n-8:], uint64(len(doc)))
	return out, nil
}

// Describe reads the description of a pack of size bytes. Nothing of it is
// checked against the pack's bytes but their number: see Verify.
func Describe(r io.ReaderAt, size int64) (*Description, error) {
	bad := func(format string, args ...any) error {
		return fault.New(fault.ExitParse, CodeFormat, "make it with cocoon model pack", "reading model pack: "+format, args...)
	}
	footer := make([]byte, footerSize)
	if size < int64(footerSize) || size%verity.BlockSize != 0 {
		return nil, bad("%d bytes are no whole number of blocks", size)
	}
	if _, err := r.ReadAt(footer, size-int64(footerSize)); err != nil {
		return nil, bad("%w", err)
	}
	n := binary.LittleEndian.Uint64(footer[len(footerMagic):])
	if !bytes.Equal(footer[:len(footerMagic)], []byte(footerMagic)) || n == 0 || n > maxDescription-uint64(footerSize) {
		return nil, bad("it has no description at its end")
	}
	frame := (int64(n) + int64(footerSize) + verity.BlockSize - 1) / verity.BlockSize * verity.BlockSize
	if frame > size {
		return nil, bad("its description is longer than it is")
	}
	buf := make([]byte, frame)
	if _, err := r.ReadAt(buf, size-frame); err != nil {
		return nil, bad("%w", err)
	}
	var d Description
	if err := jcs.DecodeCanonical(buf[:n], maxDescription, &d); err != nil {
		return nil, bad("%w", err)
	}
	if err := d.check(); err != nil {
		return nil, bad("%w", err)
	}
	for _, b := range buf[n : frame-int64(footerSize)] {
		if b != 0 {
			return nil, bad("its description is followed by something else")
		}
	}
	if d.DeviceBytes() != size-frame {
		return nil, bad("it has %d bytes of data and tree, its description says %d", size-frame, d.DeviceBytes())
	}
	return &d, nil
}

// Open describes the pack in a file.
func Open(path string) (*os.File, *Description, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fault.New(fault.ExitInternal, "file.unreadable", "check the path", "opening model pack: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	var d *Description
	if err == nil {
		d, err = Describe(f, st.Size())
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, d, nil
}
