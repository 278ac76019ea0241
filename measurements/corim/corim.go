// Package corim exports a manifest's reference values as CoRIM: a tagged,
// unsigned corim-map with CoMID tags of reference triples, for verifiers that
// take their reference values in that form. In comes a manifest, out come
// deterministic CBOR bytes; what it writes it also reads, strictly.
//
// Definition: draft-ietf-rats-corim, sections "CoRIM" and "Concise Module
// Identifier (CoMID)", as of 2026; the numbers below are its CDDL's. The
// subset is that of reference values: no endorsements, keys or series.
package corim

import (
	"fmt"
	"math"
	"time"

	"cocoon/measurements/cbor"
)

// MaxSize bounds a document, in bytes.
const MaxSize = 4 << 20

// CBOR tags (draft, section "CBOR Tags Registration").
const (
	tagCoRIM = 501
	tagCoMID = 506
	tagUUID  = 37
	tagOID   = 111
	tagBytes = 560
	tagSVN   = 552
	tagURI   = 32
	tagTime  = 1
)

// Algorithms of digests (IANA Named Information Hash Algorithm Registry).
const (
	SHA256 = 1
	SHA384 = 7
)

// Roles (draft: corim-role-type-choice, comid-role-type-choice).
const (
	RoleManifestCreator = 1
	RoleTagCreator      = 0
)

// CoRIM is a corim-map.
type CoRIM struct {
	ID       any     // string, or 16 bytes of a UUID
	Tags     []CoMID // at least one
	Profile  any     // nil, a URI (string), or an OID ([]byte, BER without header)
	NotAfter time.Time
	Entities []Entity
}

// CoMID is a concise-mid-tag.
type CoMID struct {
	ID        any // string, or 16 bytes of a UUID
	Version   uint64
	Entities  []Entity
	Reference []Triple
	Endorsed  []Triple
}

// Entity is somebody who made a tag or a manifest.
type Entity struct {
	Name  string
	RegID string // URI, or empty
	Roles []uint64
}

// Triple is a reference-triple-record: what an environment is measured as.
type Triple struct {
	Class        Class
	Measurements []Measurement
}

// Class is a class-map.
type Class struct {
	ID     any // nil, UUID ([16]byte), OID ([]byte) or Bytes
	Vendor string
	Model  string
	Layer  *uint64
	Index  *uint64
}

// OID is an object identifier, BER without its header.
type OID []byte

// Bytes is a class id that is opaque.
type Bytes []byte

// UUID is an identifier of RFC 9562.
type UUID [16]byte

// Measurement is a measurement-map.
type Measurement struct {
	Key       any // nil, string or uint64
	Version   *Version
	SVN       *uint64 // exact security version
	Digests   []Digest
	Raw       []byte
	RawMask   []byte
	Name      string
	Registers []Register // integrity-registers
}

// Version is a version-map.
type Version struct {
	Text   string
	Scheme uint64 // 0: none; 16384: semver
}

// Digest is a hash and its algorithm: a number or a name.
type Digest struct {
	Algorithm any // uint64 or string
	Value     []byte
}

// Register is one of the integrity-registers.
type Register struct {
	ID      any // uint64 or string
	Digests []Digest
}

// Encode returns the deterministic encoding.
func (c *CoRIM) Encode() ([]byte, error) {
	m := cbor.Map{{Key: uint64(0), Value: id(c.ID)}}
	tags := []any{}
	for i := range c.Tags {
		b, err := c.Tags[i].Encode()
		if err != nil {
			return nil, err
		}
		tags = append(tags, cbor.Tag{Number: tagCoMID, Content: b})
	}
	if len(tags) == 0 {
		return nil, fmt.Errorf("encoding CoRIM: it has no tags: %w", cbor.ErrForm)
	}
	m = append(m, cbor.Pair{Key: uint64(1), Value: tags})
	switch p := c.Profile.(type) {
	case string:
		m = append(m, cbor.Pair{Key: uint64(3), Value: cbor.Tag{Number: tagURI, Content: p}})
	case OID:
		m = append(m, cbor.Pair{Key: uint64(3), Value: cbor.Tag{Number: tagOID, Content: []byte(p)}})
	}
	if !c.NotAfter.IsZero() {
		m = append(m, cbor.Pair{Key: uint64(4), Value: cbor.Map{{Key: uint64(1), Value: cbor.Tag{Number: tagTime, Content: uint64(max(c.NotAfter.Unix(), 0))}}}})
	}
	if len(c.Entities) > 0 {
		m = append(m, cbor.Pair{Key: uint64(5), Value: entities(c.Entities)})
	}
	return cbor.Encode(cbor.Tag{Number: tagCoRIM, Content: m})
}

// Encode returns the deterministic encoding of the map, without its tag.
func (c *CoMID) Encode() ([]byte, error) {
	identity := cbor.Map{{Key: uint64(0), Value: id(c.ID)}}
	if c.Version != 0 {
		identity = append(identity, cbor.Pair{Key: uint64(1), Value: c.Version})
	}
	m := cbor.Map{{Key: uint64(1), Value: identity}}
	if len(c.Entities) > 0 {
		m = append(m, cbor.Pair{Key: uint64(2), Value: entities(c.Entities)})
	}
	triples := cbor.Map{}
	for key, list := range map[uint64][]Triple{0: c.Reference, 1: c.Endorsed} {
		if len(list) > 0 {
			triples = append(triples, cbor.Pair{Key: key, Value: tripleList(list)})
		}
	}
	if len(triples) == 0 {
		return nil, fmt.Errorf("encoding CoMID: it has no triples: %w", cbor.ErrForm)
	}
	return cbor.Encode(append(m, cbor.Pair{Key: uint64(4), Value: triples}))
}

func id(v any) any {
	if u, ok := v.(UUID); ok {
		return u[:]
	}
	return v
}

func entities(es []Entity) []any {
	out := []any{}
	for _, e := range es {
		m := cbor.Map{{Key: uint64(0), Value: e.Name}}
		if e.RegID != "" {
			m = append(m, cbor.Pair{Key: uint64(1), Value: cbor.Tag{Number: tagURI, Content: e.RegID}})
		}
		roles := []any{}
		for _, r := range e.Roles {
			roles = append(roles, r)
		}
		out = append(out, append(m, cbor.Pair{Key: uint64(2), Value: roles}))
	}
	return out
}

func tripleList(ts []Triple) []any {
	out := []any{}
	for _, t := range ts {
		ms := []any{}
		for i := range t.Measurements {
			ms = append(ms, t.Measurements[i].encode())
		}
		out = append(out, []any{cbor.Map{{Key: uint64(0), Value: t.Class.encode()}}, ms})
	}
	return out
}

func (c *Class) encode() cbor.Map {
	m := cbor.Map{}
	switch v := c.ID.(type) {
	case UUID:
		m = append(m, cbor.Pair{Key: uint64(0), Value: cbor.Tag{Number: tagUUID, Content: v[:]}})
	case OID:
		m = append(m, cbor.Pair{Key: uint64(0), Value: cbor.Tag{Number: tagOID, Content: []byte(v)}})
	case Bytes:
		m = append(m, cbor.Pair{Key: uint64(0), Value: cbor.Tag{Number: tagBytes, Content: []byte(v)}})
	}
	for key, s := range map[uint64]string{1: c.Vendor, 2: c.Model} {
		if s != "" {
			m = append(m, cbor.Pair{Key: key, Value: s})
		}
	}
	for key, n := range map[uint64]*uint64{3: c.Layer, 4: c.Index} {
		if n != nil {
			m = append(m, cbor.Pair{Key: key, Value: *n})
		}
	}
	return m
}

func (x *Measurement) encode() cbor.Map {
	v := cbor.Map{}
	add := func(key uint64, value any) { v = append(v, cbor.Pair{Key: key, Value: value}) }
	if x.Version != nil {
		m := cbor.Map{{Key: uint64(0), Value: x.Version.Text}}
		if x.Version.Scheme != 0 {
			m = append(m, cbor.Pair{Key: uint64(1), Value: x.Version.Scheme})
		}
		add(0, m)
	}
	if x.SVN != nil {
		add(1, cbor.Tag{Number: tagSVN, Content: *x.SVN})
	}
	if len(x.Digests) > 0 {
		add(2, digests(x.Digests))
	}
	if x.Raw != nil {
		add(4, cbor.Tag{Number: tagBytes, Content: x.Raw})
	}
	if x.RawMask != nil {
		add(5, x.RawMask)
	}
	if x.Name != "" {
		add(11, x.Name)
	}
	if len(x.Registers) > 0 {
		m := cbor.Map{}
		for _, r := range x.Registers {
			m = append(m, cbor.Pair{Key: r.ID, Value: digests(r.Digests)})
		}
		add(14, m)
	}
	out := cbor.Map{{Key: uint64(1), Value: v}}
	if x.Key != nil {
		out = append(out, cbor.Pair{Key: uint64(0), Value: x.Key})
	}
	return out
}

func digests(ds []Digest) []any {
	out := []any{}
	for _, d := range ds {
		out = append(out, []any{d.Algorithm, d.Value})
	}
	return out
}

// maxTime is the last second that this package reads.
const maxTime = math.MaxInt32 * 2
