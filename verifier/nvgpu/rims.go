package nvgpu

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/spdm"
	"cocoon/verifier/result"
)

// Editions of RIM documents.
const (
	editionGPU    = "GPU"
	editionSwitch = "SWITCH"
)

// rimSet is the documents of one verification whose signatures hold.
type rimSet struct {
	docs   []*rim.Document
	checks []result.Check // those that failed, of any document
}

// openRIMs verifies documents. Validity is looked at where a document is
// used: an expired copy beside a newer one does no harm.
func openRIMs(o *Options, now time.Time, cache *Cache) *rimSet {
	s := &rimSet{}
	if len(o.RIMs) > MaxRIMs {
		s.checks = append(s.checks, result.Check{ID: "gpu.rim.parse", Status: result.Fail, Expected: fmt.Sprintf("at most %d", MaxRIMs),
			Actual: fmt.Sprint(len(o.RIMs)), Reason: "too many RIM documents", Remedy: "give those that the devices need"})
		return s
	}
	for i, raw := range o.RIMs {
		doc, checks, err := rim.Verify(raw, &rim.Options{Roots: o.RIMRoots, Now: now, AllowExpired: true, Cache: cache.rims})
		if err == nil && doc != nil {
			s.docs = append(s.docs, doc)
			continue
		}
		for _, c := range checks {
			if c.Status == result.Fail {
				c.ID = "gpu." + c.ID
				c.Reason = fmt.Sprintf("RIM document %d: %s", i, c.Reason)
				s.checks = append(s.checks, c)
			}
		}
	}
	return s
}

// find returns the document for a product's version with the newest signer.
// NVIDIA signs documents anew under the same id; an older one that is still
// valid could take measurements back that were withdrawn.
func (s *rimSet) find(edition, product, version string) *rim.Document {
	var best *rim.Document
	for _, d := range s.docs {
		if strings.EqualFold(d.Edition, edition) && strings.EqualFold(d.Product, product) && strings.EqualFold(d.Version, version) &&
			(best == nil || d.SignerNotBefore().After(best.SignerNotBefore())) {
			best = d
		}
	}
	return best
}

// need is a document that a device needs: which, and under which ID NVIDIA's
// service has it.
type need struct{ check, what, edition, product, version, id string }

// needs returns the documents for a device's versions.
func (d *Device) needs() []need {
	if d.sw != nil {
		return []need{{"gpu.rim.vbios", "switch BIOS", editionSwitch, "LS10", d.VBIOS, rim.SwitchID(d.VBIOS)}}
	}
	product := d.Chip
	return []need{
		{"gpu.rim.driver", "driver", editionGPU, product, d.Driver, rim.DriverID(string(d.Arch), d.gpu.ChipInfo, d.Driver)},
		{"gpu.rim.vbios", "VBIOS", editionGPU, product, d.VBIOS, rim.VBIOSID(d.gpu.Project, d.gpu.ProjectSKU, d.gpu.ChipSKU, d.VBIOS)},
	}
}

// RIMIDs returns the IDs under which NVIDIA's RIM service has the documents
// that a device needs; nil where its report or chain is not good.
func (d *Device) RIMIDs() []string {
	if d.gpu == nil && d.sw == nil {
		return nil
	}
	var ids []string
	for _, n := range d.needs() {
		ids = append(ids, n.id)
	}
	return ids
}

// measurements finds the reference documents and compares.
func (r *run) measurements(d *Device) {
	needs := d.needs()
	docs := make([]*rim.Document, 0, len(needs))
	missing := 0
	for _, n := range needs {
		switch doc := r.rims.find(n.edition, n.product, n.version); {
		case doc != nil:
			if r.usable(d, n, doc) {
				docs = append(docs, doc)
				d.RIMs = append(d.RIMs, hex.EncodeToString(doc.SHA256[:]))
			}
		case r.o.NoRIM:
			missing++
			d.skip(n.check, "no reference measurements were given for "+n.what+" "+n.version)
		default:
			d.fail(n.check, n.id, "none", "no good reference measurements were given for "+n.what+" "+n.version, "give the RIM "+n.id+", from NVIDIA's RIM service")
		}
	}
	r.rimRevocation(d, docs)
	without := ""
	switch {
	case len(docs) == len(needs):
	case missing < len(needs)-len(docs):
		without = "reference measurements are not good"
	default:
		without = "reference measurements are missing"
	}
	d.compare(docs, without)
}

// usable checks a document's validity for one device.
func (r *run) usable(d *Device, n need, doc *rim.Document) bool {
	window := stamp(doc.NotBefore) + " to " + stamp(doc.NotAfter)
	switch {
	case r.now.Before(doc.NotBefore):
		d.fail(n.check, window, stamp(r.now), "the RIM's signer is not valid yet", "check the clock")
		return false
	case r.now.After(doc.NotAfter) && r.o.AllowExpiredRIM:
		d.pass(n.check, doc.Signer+" (expired "+stamp(doc.NotAfter)+", which is allowed)")
		return true
	case r.now.After(doc.NotAfter):
		d.fail(n.check, window, stamp(r.now), "the RIM's signer has expired", "get "+n.id+" again: NVIDIA signs it anew under the same ID")
		return false
	}
	d.until(doc.NotAfter)
	d.pass(n.check, n.id)
	return true
}

// Indices of reference measurements with a rule of their own.
const (
	indexMode   = 9  // reported to cover the confidential-computing mode, DEVTOOLS among it
	indexNVDEC0 = 35 // of a unit that may be disabled
)

// compare holds the report's measurements against those that its documents
// have as active: the document's index i is the report's block i+1, and any
// alternative is good. What the documents do not name is not looked at. Where
// a document is missing, without says so: what differs is still a failure, and
// what does not is no success.
func (d *Device) compare(docs []*rim.Document, without string) {
	const id = "gpu.measurements"
	golden := map[int]rim.Measurement{}
	var conflicts, wrong []int
	for _, doc := range docs {
		for _, m := range doc.Measurements {
			if !m.Active {
				continue
			}
			if _, ok := golden[m.Index]; ok {
				conflicts = append(conflicts, m.Index)
			}
			golden[m.Index] = m
		}
	}
	skipped, mode := false, result.Skip
	if _, ok := golden[indexNVDEC0]; ok && d.gpu != nil && d.gpu.NVDEC0 == spdm.NVDEC0Disabled {
		skipped = true // NVIDIA's rule: the unit is off and measures nothing
		delete(golden, indexNVDEC0)
	}
	for i, m := range golden {
		got, ok := d.report.Value(i + 1)
		good := ok && slices.Contains(m.Alternatives, rim.Hash(got.Value))
		if i == indexNVDEC0 && d.gpu != nil && d.gpu.NVDEC0 != spdm.NVDEC0Enabled {
			good = false // neither on nor off
		}
		if !good {
			wrong = append(wrong, i)
		}
		if i == indexMode {
			mode = result.Pass
			if !good {
				mode = result.Fail
			}
		}
	}
	slices.Sort(conflicts)
	slices.Sort(wrong)
	switch {
	case len(conflicts) > 0:
		d.fail(id, "each index in one document", "in both: "+numbers(conflicts), "driver and VBIOS RIM name the same measurement", "get both documents again from the RIM service")
	case len(wrong) == 0 && without != "":
		if n := len(golden); n > 0 {
			without += fmt.Sprintf("; the %d that are known match", n)
		}
		d.skip(id, without)
	case len(golden) == 0:
		d.fail(id, "active measurements", "none", "the RIM documents name no measurement", "get them again from the RIM service")
	case len(wrong) > 0:
		d.fail(id, fmt.Sprintf("%d reference measurements", len(golden)), fmt.Sprintf("%d differ: %s", len(wrong), numbers(wrong)),
			"measurements differ from the reference", "install a driver and VBIOS that NVIDIA published, reset the GPU and attest again")
	default:
		text := fmt.Sprintf("%d of %d match", len(golden), len(golden))
		if skipped {
			text += fmt.Sprintf("; %d is not compared: NVDEC0 is disabled", indexNVDEC0)
		}
		d.pass(id, text)
	}
	if d.gpu != nil {
		d.devtools(mode)
	}
}

// devtools says what measurement 9 says of DEVTOOLS, in which the GPU's
// memory is open to its host (DESIGN section 2: refused). No field of the
// report states it.
func (d *Device) devtools(status string) {
	const id = "gpu.devtools"
	switch status {
	case result.Pass:
		d.pass(id, "off")
	case result.Fail:
		d.fail(id, "measurement 9 of a GPU in production mode", "another", "the GPU may be in DEVTOOLS mode, or not in a confidential-computing mode",
			"set the confidential-computing mode to on, reset the GPU and attest again")
	default:
		d.skip(id, "no reference document with measurement 9, which shows it, was compared")
	}
}

// numbers writes indices, not more of them than a screen takes.
func numbers(in []int) string {
	const most = 16
	s := make([]string, 0, most+1)
	for i, n := range in {
		if i == most {
			s = append(s, fmt.Sprintf("%d more", len(in)-most))
			break
		}
		s = append(s, fmt.Sprint(n))
	}
	return strings.Join(s, " ")
}
