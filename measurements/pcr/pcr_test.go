package pcr

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/measurements/digest"
)

func parse(t *testing.T, s string) digest.SHA256 {
	t.Helper()
	d, err := digest.Parse256(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestPredictionIsWhatABootMeasured holds the prediction against registers
// that were watched at a direct boot (QEMU 11.1.3, OVMF 2026.08; see
// testdata/README.md).
func TestPredictionIsWhatABootMeasured(t *testing.T) {
	const cmdline = "console=ttyS0 quiet panic=-1 cocoon.root=4ca424ad2045ddb334bb61d0d7b0e572cdc684850acdd8fdac01b0e5a4b6c702 " +
		"cocoon.salt=4a250d90a84c287cc71135a166cbb409afec31376ce25d3bb920fd86ac8e4970 cocoon.blocks=10712"
	rec, err := Recorded()
	if err != nil {
		t.Fatal(err)
	}
	fw, err := rec.Find(parse(t, "6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Predict(fw, Components{
		KernelAuthenticodeSHA256: parse(t, "a20646051d119ba9f5e4f6759d6bb1395157aa7d69bc39fa42e3e5d8cb94c56b"),
		InitrdSHA256:             parse(t, "e9ed2cf3d07e20b3e7fd0166721a0205eedbb1dc4335d3c04b4205b2869f715d"),
	}, cmdline)
	if err != nil {
		t.Fatal(err)
	}
	const separator = "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"
	want := Values{
		0: parse(t, "c52ccebcb2f9e66ae492acf8a1d80ff26df1176c9fc52cb53bf08ffbb838069b"),
		2: parse(t, separator), 3: parse(t, separator), 6: parse(t, separator),
		4: parse(t, "4ad91debfe56f7cbf8986a6eb1f939f270b4d40cc1ab28cebbe3d3bf12aa73c8"),
		5: parse(t, "a5ceb755d043f32431d63e39f5161464620a3437280494b5850dc1b47cc074e0"),
		7: parse(t, "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439"),
		9: parse(t, "1581b6c2a36c313f580fdf476a429faca31c83601edf863ce283c96a60f35fb7"),
		8: {}, 11: {}, 12: {}, 13: {}, 14: {},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("registers (-watched +predicted):\n%s", diff)
	}
}

func TestEveryComponentReachesItsRegister(t *testing.T) {
	fw := Firmware{Name: "f", SHA256: digest.Sum256(nil), PCR0: digest.Sum256(nil), PCR7: digest.Sum256(nil), Provenance: ProvenanceRecorded, Cmdline: CmdlineInitrdFirst}
	c := Components{KernelAuthenticodeSHA256: digest.Sum256([]byte("k")), InitrdSHA256: digest.Sum256([]byte("i"))}
	base, err := Predict(fw, c, "quiet")
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]struct {
		fw      Firmware
		c       Components
		cmdline string
		want    []int
	}{
		"kernel":       {fw, Components{digest.Sum256(nil), c.InitrdSHA256}, "quiet", []int{4}},
		"initrd":       {fw, Components{c.KernelAuthenticodeSHA256, digest.Sum256(nil)}, "quiet", []int{9}},
		"command line": {fw, c, "quiet ", []int{9}},
		"rule":         {Firmware{Name: "f", PCR0: fw.PCR0, PCR7: fw.PCR7, Cmdline: CmdlineInitrdLast}, c, "quiet", []int{9}},
		"firmware":     {Firmware{Name: "f", PCR0: digest.SHA256{1}, PCR7: digest.SHA256{2}, Cmdline: fw.Cmdline}, c, "quiet", []int{0, 7}},
	} {
		got, err := Predict(v.fw, v.c, v.cmdline)
		if err != nil {
			t.Fatal(err)
		}
		var differ []int
		for _, n := range base.Numbers() {
			if base[n] != got[n] {
				differ = append(differ, n)
			}
		}
		if diff := cmp.Diff(v.want, differ); diff != "" {
			t.Errorf("%s changes other registers (-want +got):\n%s", name, diff)
		}
	}
}

func TestCommandLinesThatCannotBePredictedAreRefused(t *testing.T) {
	for name, s := range map[string]string{
		"empty": "", "a line end": "quiet\n", "not ASCII": "quiet \u00e4", "an initrd of its own": "quiet initrd=other",
		"too long": strings.Repeat("a", MaxCmdline+1), "a NUL": "quiet\x00",
	} {
		if _, err := CmdlineDigest(CmdlineInitrdFirst, s); !errors.Is(err, ErrCmdline) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := CmdlineDigest("other", "quiet"); err == nil {
		t.Error("an unknown rule is taken")
	}
}

func TestRecordingsAreStrict(t *testing.T) {
	const good = `{"cmdline_rule":"initrd-first","name":"f","pcr0":"01","pcr7":"01","provenance":"recorded","sha256":"01"}`
	doc := func(f string) string {
		return `{"format":1,"firmwares":[` + strings.ReplaceAll(f, `"01"`, `"`+strings.Repeat("01", 32)+`"`) + `]}`
	}
	if _, err := ParseRecordings([]byte(doc(good))); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{
		"another format":     strings.Replace(doc(good), `"format":1`, `"format":2`, 1),
		"twice":              doc(good + "," + good),
		"computed":           doc(strings.Replace(good, "recorded", "computed", 1)),
		"an unknown rule":    doc(strings.Replace(good, "initrd-first", "other", 1)),
		"no PCR 0":           doc(strings.Replace(good, `"pcr0":"01"`, `"pcr0":"`+strings.Repeat("00", 32)+`"`, 1)),
		"an unknown key":     doc(strings.Replace(good, `"name"`, `"nam"`, 1)),
		"an upper-case hash": doc(strings.Replace(good, `"pcr0":"01"`, `"pcr0":"`+strings.Repeat("AB", 32)+`"`, 1)),
	} {
		if _, err := ParseRecordings([]byte(in)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
