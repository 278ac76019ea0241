package corim_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/measurements/corim"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/pcr"
	"cocoon/measurements/snp"
)

// TestAManifestIsExportedWhole reads the export again and looks for each
// reference value.
func TestAManifestIsExportedWhole(t *testing.T) {
	sum, sum384 := func(s string) digest.SHA256 { return digest.Sum256([]byte(s)) }, func(s string) digest.SHA384 { return digest.Sum384([]byte(s)) }
	r1, r2 := sum384("rtmr1"), sum384("rtmr2")
	m := &manifest.Manifest{
		Image: manifest.Image{Name: "cocoon-cpu", Version: 3}, Sunset: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		Artifacts: []manifest.Artifact{{Name: "image/vmlinuz", SHA256: sum("vmlinuz")}},
		TPM:       &manifest.TPM{Firmwares: []manifest.TPMFirmware{{Firmware: pcr.Firmware{Name: "ovmf", SHA256: sum("ovmf")}, PCRs: pcr.Values{4: sum("pcr4"), 9: sum("pcr9")}}}},
		TDX: &manifest.TDX{Firmwares: []manifest.TDXFirmware{{Name: "tdvf", SHA256: sum("tdvf"), MRTD: []digest.SHA384{sum384("a"), sum384("b")},
			RTMR1: manifest.Register{Value: &r1}, RTMR2: manifest.Register{Value: &r2}}}},
		SNP: &manifest.SNP{Components: snp.Kernel{Kernel: sum("kernel"), Initrd: sum("initrd"), Cmdline: sum("cmdline")},
			Firmwares: []manifest.SNPFirmware{{Name: "amdsev", SHA256: sum("amdsev"), Firmware: snp.Firmware{Digest: sum384("launch")}}}},
	}
	c, err := corim.FromManifest(m, sum("payload"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := corim.Decode(doc)
	if err != nil {
		t.Fatal(err)
	}
	if back.ID != "urn:cocoon:manifest:"+sum("payload").String() || back.Profile != corim.Profile || !back.NotAfter.Equal(m.Sunset) {
		t.Errorf("identity is %v, profile %v, good until %s", back.ID, back.Profile, back.NotAfter)
	}
	var got []string
	for _, r := range back.Tags[0].Reference {
		for _, x := range r.Measurements {
			for _, d := range x.Digests {
				got = append(got, r.Class.Model+" "+x.Key.(string)+" "+short(d.Value))
			}
			for _, reg := range x.Registers {
				id, ok := reg.ID.(string)
				if !ok {
					id = string(rune('0' + reg.ID.(uint64)))
				}
				got = append(got, r.Class.Model+" "+id+" "+short(reg.Digests[0].Value))
			}
		}
	}
	tpm, tdx, sev := "cocoon-cpu/tpm/"+sum("ovmf").String(), "cocoon-cpu/tdx/"+sum("tdvf").String(), "cocoon-cpu/snp/"+sum("amdsev").String()
	h := func(d digest.SHA256) string { return short(d[:]) }
	h384 := func(d digest.SHA384) string { return short(d[:]) }
	want := []string{
		"cocoon-cpu/files/3 image/vmlinuz " + h(sum("vmlinuz")), tpm + " 4 " + h(sum("pcr4")), tpm + " 9 " + h(sum("pcr9")),
		tdx + " mrtd " + h384(sum384("a")), tdx + " rtmr1 " + h384(r1), tdx + " rtmr2 " + h384(r2),
		tdx + " mrtd " + h384(sum384("b")), tdx + " rtmr1 " + h384(r1), tdx + " rtmr2 " + h384(r2),
		sev + " firmware " + h384(sum384("launch")), sev + " kernel " + h(sum("kernel")), sev + " initrd " + h(sum("initrd")), sev + " cmdline " + h(sum("cmdline")),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reference values (-want +got):\n%s", diff)
	}
}

func short(b []byte) string { return digest.Sum256(b).String()[:16] }
