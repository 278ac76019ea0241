package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/result"
)

// Board names the board of a GPU, which its VBIOS is made for: the PROJECT,
// PROJECT_SKU and CHIP_SKU of its report, such as 1010, 0200 and 882.
type Board struct{ Project, ProjectSKU, ChipSKU string }

// Query says for what reference measurements are looked for.
type Query struct {
	Arch   string // rim.Hopper or rim.Blackwell
	Chip   string // CHIP_INFO of a Blackwell GPU; empty: GB100
	Driver string // version
	VBIOS  string // dotted; empty: only the driver is looked for
	Board  *Board // nil: every board that has this VBIOS is looked for
}

// Found is what there is for one part.
type Found struct {
	Version   string         `json:"version"`
	ID        string         `json:"id,omitempty"` // empty: not asked for by id
	Available bool           `json:"available"`    // there is a document, and it verifies now
	Signer    string         `json:"signer,omitempty"`
	NotAfter  *time.Time     `json:"not_after,omitempty"` // of the signer's chain
	Stale     bool           `json:"stale,omitempty"`     // the service did not answer: from a cache or bundle
	Boards    []string       `json:"boards,omitempty"`    // ids with this VBIOS, where no board was named
	Nearest   []string       `json:"nearest,omitempty"`   // versions that have a document, nearest first
	Checks    []result.Check `json:"checks,omitempty"`
}

// Preflight is what a machine's owner learns before an attestation fails.
type Preflight struct {
	Available bool      `json:"available"`
	Arch      string    `json:"arch"`
	Time      time.Time `json:"time"`
	Driver    *Found    `json:"driver"`
	VBIOS     *Found    `json:"vbios,omitempty"`
}

// CodeNoRIM is the code of a version without reference measurements.
const CodeNoRIM = "gpu.rim.not_found"

// maxBoards bounds the documents that are fetched where no board is named.
const maxBoards = 16

// Preflight says whether reference measurements exist for a driver and a
// VBIOS, whether they verify now, and which versions have some instead. The
// error joins all that stands in the way: gpu.rim.not_found (exit 6), rim.*
// (exit 2), rim.service.* (exit 3).
func (c *Client) Preflight(ctx context.Context, q Query) (*Preflight, error) {
	p := &Preflight{Arch: q.Arch, Time: c.opts.Clock().UTC()}
	var errs []error
	driver := rim.DriverID(q.Arch, q.Chip, q.Driver)
	var err error
	if p.Driver, err = c.find(ctx, "driver", q.Driver, driver); err != nil {
		errs = append(errs, err)
	}
	if q.VBIOS != "" {
		if p.VBIOS, err = c.findVBIOS(ctx, q); err != nil {
			errs = append(errs, err)
		}
	}
	p.Available = len(errs) == 0
	return p, errors.Join(errs...)
}

func (c *Client) findVBIOS(ctx context.Context, q Query) (*Found, error) {
	if b := q.Board; b != nil {
		return c.find(ctx, "VBIOS", q.VBIOS, rim.VBIOSID(b.Project, b.ProjectSKU, b.ChipSKU, q.VBIOS))
	}
	f := &Found{Version: q.VBIOS}
	ids, err := c.IDs(ctx)
	if err != nil {
		return f, err
	}
	suffix := "_" + strings.ToUpper(strings.ReplaceAll(q.VBIOS, ".", ""))
	for _, id := range ids.IDs {
		if strings.HasPrefix(id, vbiosPrefix) && strings.HasSuffix(strings.ToUpper(id), suffix) {
			f.Boards = append(f.Boards, id)
		}
	}
	if len(f.Boards) == 0 {
		f.Nearest = nearest(ids.IDs, vbiosPrefix, q.VBIOS)
		return f, notFound("VBIOS", q.VBIOS, "any board", f.Nearest)
	}
	// The board is not known, so every document must hold: a report will need
	// one of them.
	var errs []error
	for _, id := range f.Boards[:min(len(f.Boards), maxBoards)] {
		one, err := c.find(ctx, "VBIOS", q.VBIOS, id)
		if err != nil {
			errs = append(errs, err)
			f.Checks = append(f.Checks, one.Checks...)
			continue
		}
		if f.NotAfter == nil || one.NotAfter.Before(*f.NotAfter) {
			f.NotAfter, f.Signer = one.NotAfter, one.Signer
		}
		f.Stale = f.Stale || one.Stale
	}
	f.Available = len(errs) == 0
	return f, errors.Join(errs...)
}

// find gets and verifies one document.
func (c *Client) find(ctx context.Context, what, version, id string) (*Found, error) {
	f := &Found{Version: version, ID: id}
	r, err := c.RIM(ctx, id)
	if IsNotFound(err) || fault.Has(err, "rim.service.offline") {
		// The list says which others there are, and offline, whether the
		// service had this one.
		ids, lerr := c.IDs(ctx)
		if lerr != nil {
			return f, errors.Join(err, lerr)
		}
		if !IsNotFound(err) && slices.Contains(ids.IDs, id) {
			return f, err
		}
		f.Nearest = nearest(ids.IDs, id[:strings.LastIndex(id, "_")+1], version)
		return f, notFound(what, version, id, f.Nearest)
	}
	if err != nil {
		return f, err
	}
	d, checks, err := rim.Verify(r.Raw, &rim.Options{Roots: c.opts.Roots, Now: c.opts.Clock(), Cache: c.opts.Docs})
	f.Checks, f.Stale = checks, r.Stale
	f.Signer, f.NotAfter = r.Doc.Signer, &r.Doc.NotAfter
	f.Available = d != nil
	return f, err
}

func notFound(what, version, id string, near []string) error {
	remedy := "NVIDIA has reference measurements for no version near it: check architecture, chip and board"
	if len(near) > 0 {
		remedy = fmt.Sprintf("install %s %s, for which NVIDIA has published reference measurements", what, near[0])
		if len(near) > 1 {
			remedy += " (or " + strings.Join(near[1:], ", ") + ")"
		}
	}
	return fault.New(fault.ExitNotReady, CodeNoRIM, remedy, "looking for reference measurements of %s %.64q: there are none (%s)", what, version, id)
}

const vbiosPrefix = "NV_GPU_VBIOS_"

// maxNearest is how many versions are suggested.
const maxNearest = 4

// nearest returns the versions of the ids under a prefix that are nearest to
// version: first those of its branch (the first number of a driver, the first
// three bytes of a VBIOS), newer before older, nearest first.
func nearest(ids []string, prefix, version string) []string {
	vbios := strings.HasPrefix(prefix, vbiosPrefix)
	want, ok := numbers(version, vbios)
	if !ok {
		return nil
	}
	branch := 1
	if vbios {
		branch = 3
	}
	type candidate struct {
		text  string
		rank  int
		parts []int
	}
	var list []candidate
	seen := map[string]bool{}
	for _, id := range ids {
		rest, ok := strings.CutPrefix(id, prefix)
		if !ok {
			continue
		}
		if i := strings.LastIndex(rest, "_"); i >= 0 {
			if !vbios {
				continue
			}
			rest = rest[i+1:]
		}
		if vbios {
			rest = dotted(rest)
		}
		parts, ok := numbers(rest, vbios)
		if !ok || seen[rest] || slices.Equal(parts, want) {
			continue
		}
		seen[rest] = true
		k := candidate{text: rest, parts: parts}
		if len(parts) < branch || len(want) < branch || !slices.Equal(parts[:branch], want[:branch]) {
			k.rank = 2
		}
		if slices.Compare(parts, want) < 0 {
			k.rank++
		}
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b candidate) int {
		if a.rank != b.rank {
			return cmp.Compare(a.rank, b.rank)
		}
		if a.rank%2 == 0 { // newer: the lowest is nearest
			return slices.Compare(a.parts, b.parts)
		}
		return slices.Compare(b.parts, a.parts)
	})
	var out []string
	for _, k := range list[:min(len(list), maxNearest)] {
		out = append(out, k.text)
	}
	return out
}

// dotted puts the dots of a VBIOS version back: "96009F0001" is
// "96.00.9F.00.01".
func dotted(s string) string {
	if len(s)%2 != 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i += 2 {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(s[i : i+2])
	}
	return b.String()
}

// numbers splits a dotted version, hexadecimal for a VBIOS.
func numbers(s string, hex bool) ([]int, bool) {
	base := 10
	if hex {
		base = 16
	}
	var out []int
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(part, base, 31)
		if err != nil {
			return nil, false
		}
		out = append(out, int(n))
	}
	return out, true
}
