package dcap

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/tcb"
)

const full = `{
  "tdx": {
    "accepted_tcb_status": ["UpToDate", "OutOfDate"],
    "collateral_grace_seconds": 60,
    "platform_grace_seconds": 120,
    "min_evaluation": 17,
    "rejected_advisories": ["INTEL-SA-00960"],
    "allow_debug": true,
    "allow_smt": false,
    "fmspcs": ["00806f050000"],
    "allow_sept_ve": true,
    "xfam": {"value": "0300000000000000", "mask": "0300000000000000"},
    "mrtd": ["aa0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"]
  },
  "sgx": {"min_isvsvn": 2, "isvprodid": [1]}
}`

func TestParseReadsEveryKind(t *testing.T) {
	p, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	want := &Policy{
		TDX: &TDX{
			Platform: Platform{
				AcceptedTCBStatus: []tcb.Status{tcb.UpToDate, tcb.OutOfDate}, CollateralGraceSeconds: 60,
				PlatformGraceSeconds: ptr(int64(120)), MinEvaluation: 17, RejectedAdvisories: []string{"INTEL-SA-00960"},
				AllowDebug: true, AllowSMT: ptr(false), FMSPCs: []Hex{{0, 0x80, 0x6f, 5, 0, 0}},
			},
			AllowSEPTVE: true,
			XFAM:        &Masked{Value: Hex{3, 0, 0, 0, 0, 0, 0, 0}, Mask: Hex{3, 0, 0, 0, 0, 0, 0, 0}},
			MRTD:        []digest.SHA384{{0xaa}},
		},
		SGX: &SGX{MinISVSVN: 2, ISVProdIDs: []uint16{1}},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("policy differs:\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, doc := range map[string]string{
		"no section":                        `{}`,
		"an unknown key":                    `{"tdx":{"allow_debugging":true}}`,
		"a key twice":                       `{"tdx":{"allow_debug":false,"allow_debug":true}}`,
		"a key twice in other case":         `{"tdx":{"allow_debug":false,"Allow_Debug":true}}`,
		"an unknown status":                 `{"tdx":{"accepted_tcb_status":["uptodate"]}}`,
		"Revoked as accepted":               `{"tdx":{"accepted_tcb_status":["Revoked"]}}`,
		"NotSupported as accepted":          `{"sgx":{"accepted_tcb_status":["NotSupported"]}}`,
		"a negative grace":                  `{"tdx":{"collateral_grace_seconds":-1}}`,
		"an endless grace":                  `{"tdx":{"collateral_grace_seconds":9223372036854775807}}`,
		"a platform grace that never holds": `{"tdx":{"platform_grace_seconds":5}}`,
		"an FMSPC of five bytes":            `{"tdx":{"fmspcs":["0080 6f0500"]}}`,
		"upper-case hex":                    `{"tdx":{"fmspcs":["00806F050000"]}}`,
		"an MRTD of 32 bytes":               `{"tdx":{"mrtd":["` + strings.Repeat("00", 32) + `"]}}`,
		"a mask of the wrong length":        `{"tdx":{"xfam":{"value":"00","mask":"00"}}}`,
		"a value outside its mask":          `{"tdx":{"xfam":{"value":"0100000000000000","mask":"0000000000000000"}}}`,
		"short report data":                 `{"sgx":{"report_data":"00"}}`,
		"trailing data":                     `{"tdx":{}} {}`,
		"too many values":                   `{"tdx":{"rejected_advisories":[` + strings.Repeat(`"x",`, maxEntries) + `"x"]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(doc)); !fault.Has(err, "dcap.policy.parse") || fault.ExitCode(err) != fault.ExitParse {
				t.Errorf("got %v, want dcap.policy.parse", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(`{"tdx":{}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		p, err := Parse(doc)
		if err != nil {
			return
		}
		out, err := jcs.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("%s does not read back: %v", out, err)
		}
		if out2, _ := jcs.Marshal(again); string(out2) != string(out) {
			t.Fatalf("%s reads back as %s", out, out2)
		}
	})
}
