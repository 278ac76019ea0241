// Package explain says where two artefacts of the image differ, down to the
// file inside: the entry of an initramfs, the section of a unified kernel
// image, the file of an erofs file system, the field of a description.
//
// In go the paths of two files of one kind, out come the places; nothing for
// equal bytes. The artefacts are one's own builds, read into memory.
package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"

	"cocoon/image/cpio"
	"cocoon/image/info"
	"cocoon/image/uki"
)

// maxPlaces bounds the answer; what follows is counted.
const maxPlaces = 20

// maxUnpacked bounds a decompressed initramfs, in bytes.
const maxUnpacked = 1 << 30

// Options are what reading file systems needs.
type Options struct {
	// Extract unpacks an erofs image into a directory that it creates, with
	// modes and times.
	Extract func(ctx context.Context, image, dir string) error
	// Temp is a directory for what is unpacked.
	Temp string
}

// Files returns where two files differ.
func Files(ctx context.Context, o Options, a, b string) ([]string, error) {
	x, err := os.ReadFile(a)
	if err != nil {
		return nil, fmt.Errorf("comparing artefacts: %w", err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return nil, fmt.Errorf("comparing artefacts: %w", err)
	}
	if bytes.Equal(x, y) {
		return nil, nil
	}
	name := filepath.Base(a)
	var places []string
	switch {
	case strings.HasSuffix(name, ".img"):
		places, err = o.erofs(ctx, name, a, b)
	default:
		places = data(name, x, y)
	}
	if err != nil {
		return nil, err
	}
	if len(places) == 0 {
		places = []string{name + ": " + firstByte(x, y) + ", outside of every file in it"}
	}
	if n := len(places); n > maxPlaces {
		places = append(places[:maxPlaces], fmt.Sprintf("%s: and %d more", name, n-maxPlaces))
	}
	return places, nil
}

// data compares what is not a file system, by kind.
func data(name string, x, y []byte) []string {
	switch {
	case name == info.Initrd || name == uki.SectionInitrd:
		return initrd(name, x, y)
	case strings.HasSuffix(name, ".efi"):
		return sections(name, x, y)
	case strings.HasSuffix(name, ".json"):
		return fields(name, x, y)
	case name == info.Cmdline || name == uki.SectionCmdline:
		return words(name, string(x), string(y))
	}
	return []string{name + ": " + firstByte(x, y)}
}

// firstByte names the first differing byte.
func firstByte(x, y []byte) string {
	n := 0
	for n < min(len(x), len(y)) && x[n] == y[n] {
		n++
	}
	if len(x) != len(y) {
		return fmt.Sprintf("%d bytes became %d, the first difference is at byte %d", len(x), len(y), n)
	}
	return fmt.Sprintf("the first difference is at byte %d of %d", n, len(x))
}

func initrd(name string, x, y []byte) []string {
	a, errA := archive(x)
	b, errB := archive(y)
	if err := errors.Join(errA, errB); err != nil {
		return []string{name + ": " + firstByte(x, y) + " (it does not unpack: " + err.Error() + ")"}
	}
	return tree(name, a, b)
}

func archive(b []byte) (map[string]node, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxUnpacked))
	if err != nil {
		return nil, fmt.Errorf("unpacking an initramfs: %w", err)
	}
	defer z.Close()
	raw, err := z.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("unpacking an initramfs: %w", err)
	}
	es, err := cpio.Read(raw)
	if err != nil {
		return nil, fmt.Errorf("reading an initramfs: %w", err)
	}
	out := make(map[string]node)
	for _, e := range es {
		out["/"+e.Name] = node{meta: fmt.Sprintf("mode %o, owner %d:%d, time %d", e.Mode, e.UID, e.GID, e.MTime), data: e.Data}
	}
	return out, nil
}

func sections(name string, x, y []byte) []string {
	a, errA := uki.Read(x)
	b, errB := uki.Read(y)
	if err := errors.Join(errA, errB); err != nil {
		return []string{name + ": " + firstByte(x, y) + " (its sections cannot be read: " + err.Error() + ")"}
	}
	was := make(map[string][]byte)
	for _, s := range a {
		was[s.Name] = s.Data
	}
	var out []string
	for _, s := range b {
		old, ok := was[s.Name]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("%s: section %s is new", name, s.Name))
		case !bytes.Equal(old, s.Data):
			for _, p := range data(s.Name, old, s.Data) {
				out = append(out, name+": section "+p)
			}
		}
		delete(was, s.Name)
	}
	for n := range was {
		out = append(out, fmt.Sprintf("%s: section %s is gone", name, n))
	}
	return out
}

// words compares command lines word by word.
func words(name, x, y string) []string {
	a, b := strings.Fields(x), strings.Fields(y)
	var out []string
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(a):
			out = append(out, fmt.Sprintf("%s: word %q is new", name, b[i]))
		case i >= len(b):
			out = append(out, fmt.Sprintf("%s: word %q is gone", name, a[i]))
		case a[i] != b[i]:
			out = append(out, fmt.Sprintf("%s: word %q became %q", name, a[i], b[i]))
		}
	}
	return out
}

// fields compares descriptions field by field.
func fields(name string, x, y []byte) []string {
	var a, b any
	if err := errors.Join(json.Unmarshal(x, &a), json.Unmarshal(y, &b)); err != nil {
		return []string{name + ": " + firstByte(x, y) + " (it is no JSON: " + err.Error() + ")"}
	}
	var out []string
	var walk func(path string, a, b any)
	walk = func(path string, a, b any) {
		if am, ok := a.(map[string]any); ok {
			if bm, ok := b.(map[string]any); ok {
				keys := make(map[string]bool)
				for k := range am {
					keys[k] = true
				}
				for k := range bm {
					keys[k] = true
				}
				for _, k := range sorted(keys) {
					walk(path+"."+k, am[k], bm[k])
				}
				return
			}
		}
		if al, ok := a.([]any); ok {
			if bl, ok := b.([]any); ok && len(al) == len(bl) {
				for i := range al {
					walk(fmt.Sprintf("%s[%d]", path, i), al[i], bl[i])
				}
				return
			}
		}
		p, errP := json.Marshal(a)
		q, errQ := json.Marshal(b)
		if errP != nil || errQ != nil || !bytes.Equal(p, q) {
			out = append(out, fmt.Sprintf("%s: %s is %.80s, became %.80s", name, strings.TrimPrefix(path, "."), p, q))
		}
	}
	walk("", a, b)
	return out
}

func sorted(keys map[string]bool) []string {
	out := make([]string, 0, len(keys))
	for k := range keys {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// node is a file of a tree: what is not its content, and its content.
type node struct {
	meta string
	data []byte
}

// tree compares two trees, by path.
func tree(name string, a, b map[string]node) []string {
	paths := make(map[string]bool)
	for p := range a {
		paths[p] = true
	}
	for p := range b {
		paths[p] = true
	}
	var out []string
	for _, p := range sorted(paths) {
		x, inA := a[p]
		y, inB := b[p]
		switch {
		case !inA:
			out = append(out, fmt.Sprintf("%s: %s is new", name, p))
		case !inB:
			out = append(out, fmt.Sprintf("%s: %s is gone", name, p))
		case !bytes.Equal(x.data, y.data):
			out = append(out, fmt.Sprintf("%s: %s: %s", name, p, firstByte(x.data, y.data)))
		case x.meta != y.meta:
			out = append(out, fmt.Sprintf("%s: %s: %s became %s", name, p, x.meta, y.meta))
		}
	}
	sort.Strings(out)
	return out
}
