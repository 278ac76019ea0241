package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// SegmentEntries is the number of entries of a full segment file.
const SegmentEntries = 1 << 14

// A record is CRC-32C (4 bytes) over the rest, the entry's index and the index
// of the first entry of its group (8 bytes each), and the entry's text, filled
// up with zeros where it is a manifest's. All
// integers are big-endian. Records have one length, so that an index says
// where its record is.
const (
	recordHead = 4 + 8 + 8
	recordSize = recordHead + EntrySize
)

// ErrDamaged is returned for a journal whose files contradict each other or
// lost something that was durable.
var ErrDamaged = errors.New("journal is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord adds the record of an entry's text.
func appendRecord(b []byte, index, group uint64, text []byte) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, index)
	b = binary.BigEndian.AppendUint64(b, group)
	b = append(b, text...)
	b = append(b, make([]byte, EntrySize-len(text))...)
	binary.BigEndian.PutUint32(b[at:], crc32.Checksum(b[at+4:], castagnoli))
	return b
}

// parseRecord returns the group and the text of a record that must be the one
// of an index. The text aliases b.
func parseRecord(b []byte, index uint64) (group uint64, text []byte, err error) {
	if len(b) != recordSize || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return 0, nil, fmt.Errorf("reading record %d: wrong length or checksum", index)
	}
	group = binary.BigEndian.Uint64(b[12:])
	// A group is of one segment (Journal.commit).
	if binary.BigEndian.Uint64(b[4:]) != index || group > index || group/SegmentEntries != index/SegmentEntries {
		return 0, nil, fmt.Errorf("reading record %d: it is another's", index)
	}
	return group, b[recordHead:], nil
}

func segmentPath(dir string, n uint64) string {
	return filepath.Join(dir, "segments", fmt.Sprintf("%010d.log", n))
}

// readRecord reads the entry's text at an index.
func readRecord(dir string, index uint64) ([]byte, error) {
	f, err := os.Open(segmentPath(dir, index/SegmentEntries))
	if err != nil {
		return nil, fmt.Errorf("opening segment: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	b := make([]byte, recordSize)
	if _, err := f.ReadAt(b, int64(index%SegmentEntries)*recordSize); err != nil {
		return nil, fmt.Errorf("reading record %d: %w", index, err)
	}
	_, text, err := parseRecord(b, index)
	if err != nil {
		return nil, damaged("%w", err)
	}
	return entryText(text), nil
}

// entryText returns an entry's text without what fills it up: no text ends in a
// zero.
func entryText(b []byte) []byte { return bytes.TrimRight(b, "\x00") }

// scan is what scanSegment found.
type scan struct {
	texts []byte // of good records, one after another
	good  uint64 // number of good records before the first bad byte
	torn  bool   // something follows them: the rest of a write that did not end
}

// scanSegment reads at most limit records of a segment, up to the first bad
// one. What is bad may be
// the end of a write that a crash cut off, or damage. It is damage where a
// group follows it: a group is written only after the one before was durable.
func scanSegment(dir string, n, limit uint64) (*scan, error) {
	f, err := os.Open(segmentPath(dir, n))
	if err != nil {
		return nil, fmt.Errorf("opening segment: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading segment %d: %w", n, err)
	}
	if st.Size() > SegmentEntries*recordSize {
		return nil, damaged("segment %d is too long", n)
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(min(limit, SegmentEntries))*recordSize))
	if err != nil {
		return nil, fmt.Errorf("reading segment %d: %w", n, err)
	}
	s := &scan{}
	first := n * SegmentEntries
	for i := 0; i*recordSize < len(b); i++ {
		index := first + uint64(i)
		rec := b[i*recordSize : min((i+1)*recordSize, len(b))]
		group, text, err := parseRecord(rec, index)
		switch {
		case err != nil:
			s.torn = true
		case !s.torn:
			s.texts = append(s.texts, text...)
			s.good++
		case group > first+s.good:
			return nil, damaged("segment %d: record %d is bad, and a later write is there", n, first+s.good)
		}
	}
	return s, nil
}

// countSegments returns the number of segment files, which must be numbered
// from 0 without a gap.
func countSegments(dir string) (uint64, error) {
	names, err := filepath.Glob(filepath.Join(dir, "segments", "*.log"))
	if err != nil {
		return 0, fmt.Errorf("listing segments: %w", err)
	}
	for i := range names {
		if _, err := os.Stat(segmentPath(dir, uint64(i))); errors.Is(err, fs.ErrNotExist) {
			return 0, damaged("segment %d of %d is missing", i, len(names))
		} else if err != nil {
			return 0, fmt.Errorf("listing segments: %w", err)
		}
	}
	return uint64(len(names)), nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}

// replaceFile writes a file in one step that survives a crash.
func replaceFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
}
