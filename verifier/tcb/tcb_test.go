package tcb_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	peer "github.com/google/go-tdx-guest/testing/testdata"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/quote"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
)

func testDocuments(t testing.TB, tee uint32) (tdxtest.Collateral, *collateral.Raw) {
	t.Helper()
	p, err := tdxtest.New("tcb")
	if err != nil {
		t.Fatal(err)
	}
	c := tdxtest.DefaultCollateral(tee)
	raw, err := p.Collateral(&c)
	if err != nil {
		t.Fatal(err)
	}
	return c, raw
}

func TestDocumentsAreReadBack(t *testing.T) {
	for _, tee := range []uint32{quote.TEESGX, quote.TEETDX} {
		c, raw := testDocuments(t, tee)
		info, err := tcb.ParseInfo(raw.TCBInfo)
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.Info.Levels {
			c.Info.Levels[i].HasTDX = tee == quote.TEETDX
		}
		if diff := cmp.Diff(&c.Info, info); diff != "" {
			t.Errorf("TCB info differs:\n%s", diff)
		}
		qe, err := tcb.ParseQEIdentity(raw.QEIdentity)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&c.QE, qe); diff != "" {
			t.Errorf("QE identity differs:\n%s", diff)
		}
	}
}

func TestTCBInfoIsReadStrictly(t *testing.T) {
	_, raw := testDocuments(t, quote.TEETDX)
	doc := string(raw.TCBInfo)
	component := `{"svn":10}`
	for name, change := range map[string][2]string{
		"a version that is not 3":           {`"version":3`, `"version":2`},
		"a TCB type that is not 0":          {`"tcbType":0`, `"tcbType":1`},
		"an unknown identifier":             {`"id":"TDX"`, `"id":"TDY"`},
		"SGX with TDX members":              {`"id":"TDX"`, `"id":"SGX"`},
		"an unknown status":                 {`"tcbStatus":"UpToDate"`, `"tcbStatus":"Fine"`},
		"a status in another case":          {`"tcbStatus":"UpToDate"`, `"tcbStatus":"uptodate"`},
		"a duplicate member":                {`"version":3`, `"version":3,"version":3`},
		"a member in another case":          {`"version":3`, `"Version":3`},
		"a missing FMSPC":                   {`"fmspc"`, `"fmspd"`},
		"an FMSPC that is too short":        {`"fmspc":"90C06F000000"`, `"fmspc":"90C06F0000"`},
		"an FMSPC that is no hex":           {`"fmspc":"90C06F000000"`, `"fmspc":"90C06F00000G"`},
		"a date that is none":               {`"issueDate":"2026-05-31T00:00:00Z"`, `"issueDate":"2026-05-32T00:00:00Z"`},
		"next update before issue date":     {`"issueDate":"2026`, `"issueDate":"2027`},
		"a component above 255":             {component, `{"svn":256}`},
		"a negative component":              {component, `{"svn":-1}`},
		"a component with a fraction":       {component, `{"svn":10.0}`},
		"a component with an exponent":      {component, `{"svn":1e1}`},
		"a component with a leading zero":   {component, `{"svn":010}`},
		"a component as a string":           {component, `{"svn":"10"}`},
		"a component without svn":           {component, `{}`},
		"17 components":                     {component + `,`, component + `,` + component + `,`},
		"15 components":                     {component + `,`, ``},
		"no TDX components":                 {`"tdxtcbcomponents"`, `"other"`},
		"no levels":                         {`"tcbLevels":[{"tcb":{"sgx`, `"tcbLevels":[],"old":[{"tcb":{"sgx`},
		"a level without a date":            {`"tcbDate"`, `"date"`},
		"a module status that modules lack": {`"tcbLevels":[{"tcb":{"isvsvn":5},"tcbDate":"2025-08-13T00:00:00Z","tcbStatus":"UpToDate"`, `"tcbLevels":[{"tcb":{"isvsvn":5},"tcbDate":"2025-08-13T00:00:00Z","tcbStatus":"SWHardeningNeeded"`},
		"two module levels of one ISVSVN":   {`"isvsvn":2`, `"isvsvn":5`},
		"a module without a signer":         {`"mrsigner"`, `"signer"`},
		"trailing data":                     {`"tcbLevels"`, `"x":[]}{"tcbLevels"`},
		"a control character in a string":   {`"version":3`, "\"version\":3,\"x\":\"\x01\""},
		"a string that is not UTF-8":        {`"version":3`, "\"version\":3,\"x\":\"\xff\""},
		"an unknown token":                  {`"version":3`, `"version":3,"x":nul`},
		"nesting without end":               {`"version":3`, `"version":3,"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100)},
		"a trailing comma":                  {`"tcbType":0,`, `"tcbType":0,,`},
	} {
		bad := strings.Replace(doc, change[0], change[1], 1)
		if bad == doc {
			t.Errorf("%s: nothing was changed", name)
		}
		if _, err := tcb.ParseInfo([]byte(bad)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	for name, change := range map[string][2]string{
		"an unknown member": {`"version":3`, `"version":3,"new":{"a":[1,2.5e3,null,true,"x\u0041"]}`},
		"white space":       {`"version":3`, "\t\"version\" :\r\n 3 "},
		"lower-case hex":    {`90C06F000000`, `90c06f000000`},
	} {
		good := strings.Replace(doc, change[0], change[1], 1)
		if _, err := tcb.ParseInfo([]byte(good)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDuplicateLevelsAreRefused(t *testing.T) {
	p, err := tdxtest.New("tcb")
	if err != nil {
		t.Fatal(err)
	}
	c := tdxtest.DefaultCollateral(quote.TEESGX)
	c.Info.Levels = append(c.Info.Levels, c.Info.Levels[0])
	raw, err := p.Collateral(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tcb.ParseInfo(raw.TCBInfo); err == nil {
		t.Error("two levels that are the same are accepted")
	}
}

func TestConvergeFollowsIntelsTable(t *testing.T) {
	lowered := map[tcb.Status]tcb.Status{
		tcb.UpToDate: tcb.OutOfDate, tcb.SWHardeningNeeded: tcb.OutOfDate, tcb.OutOfDate: tcb.OutOfDate,
		tcb.ConfigurationNeeded: tcb.OutOfDateConfigurationNeeded, tcb.ConfigurationAndSWHardeningNeeded: tcb.OutOfDateConfigurationNeeded,
		tcb.OutOfDateConfigurationNeeded: tcb.OutOfDateConfigurationNeeded, tcb.Revoked: tcb.Revoked,
	}
	for platform, want := range lowered {
		if got := tcb.Converge(platform, tcb.UpToDate, tcb.UpToDate); got != platform {
			t.Errorf("%s with components up to date is %s", platform, got)
		}
		for _, c := range [][2]tcb.Status{{tcb.OutOfDate, tcb.UpToDate}, {tcb.UpToDate, tcb.OutOfDate}, {tcb.OutOfDate, tcb.OutOfDate}, {"", tcb.OutOfDate}} {
			if got := tcb.Converge(platform, c[0], c[1]); got != want {
				t.Errorf("%s with %v is %s, not %s", platform, c, got, want)
			}
		}
		if got := tcb.Converge(platform, tcb.OutOfDate, tcb.Revoked); got != tcb.Revoked {
			t.Errorf("%s with a revoked component is %s", platform, got)
		}
	}
}

func TestRelaunchFollowsIntelsTable(t *testing.T) {
	good := map[tcb.Status]tcb.Status{
		tcb.UpToDate: tcb.TDRelaunchAdvised, tcb.SWHardeningNeeded: tcb.TDRelaunchAdvised,
		tcb.ConfigurationNeeded: tcb.TDRelaunchAdvisedConfigurationNeeded, tcb.ConfigurationAndSWHardeningNeeded: tcb.TDRelaunchAdvisedConfigurationNeeded,
	}
	for _, launch := range tcb.Statuses() {
		for _, current := range tcb.Statuses() {
			want := launch
			if g := good[current]; g != "" && launch == tcb.OutOfDate {
				want = g
			} else if g != "" && launch == tcb.OutOfDateConfigurationNeeded {
				want = tcb.TDRelaunchAdvisedConfigurationNeeded
			}
			if got := tcb.Relaunch(launch, current); got != want {
				t.Errorf("launch %s, current %s: %s, not %s", launch, current, got, want)
			}
		}
	}
}

func TestAdvisoriesAndDatesAreMerged(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2025, 1, d, 0, 0, 0, 0, time.UTC) }
	info := &tcb.Info{ID: "TDX", Levels: []tcb.Level{{Date: day(3), Status: tcb.UpToDate, Advisories: []string{"A", "B"}}},
		Modules: []tcb.Module{{ID: "TDX_01", Levels: []tcb.SVNLevel{{Date: day(2), Status: tcb.UpToDate, Advisories: []string{"D", "B"}}}}}}
	qe := &tcb.QEIdentity{Levels: []tcb.SVNLevel{{Date: day(4), Status: tcb.UpToDate, Advisories: []string{"C", "A"}}}}
	got := info.Evaluate(&tcb.Platform{TEETCBSVN: tcb.Components{0, 1}}, qe, 0)
	want := tcb.Verdict{Status: tcb.UpToDate, Platform: tcb.UpToDate, Module: tcb.UpToDate, QE: tcb.UpToDate, Date: day(2), Advisories: []string{"A", "B", "C", "D"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdict differs:\n%s", diff)
	}
}

func TestEveryStatusHasACodeARemedyAndAnExit(t *testing.T) {
	codes := map[string]bool{}
	for _, s := range tcb.Statuses() {
		f := s.Fault("tdx")
		exit := fault.ExitPolicy
		if s == tcb.Revoked || s == tcb.NotSupported {
			exit = fault.ExitRefused
		}
		if codes[f.Code] || f.Exit != exit || !s.Known() || (f.Remedy == "") != (s == tcb.UpToDate) {
			t.Errorf("%s: %+v", s, f)
		}
		codes[f.Code] = true
	}
	if s := tcb.Status("New"); s.Known() || s.Fault("tdx").Exit != fault.ExitRefused {
		t.Error("an unknown status is known")
	}
}

func FuzzTCBInfo(f *testing.F) {
	for _, tee := range []uint32{quote.TEESGX, quote.TEETDX} {
		_, raw := testDocuments(f, tee)
		f.Add(raw.TCBInfo)
		f.Add(raw.QEIdentity)
	}
	f.Add(peer.TcbInfoBody)
	f.Add(peer.QeIdentityBody)
	f.Fuzz(func(t *testing.T, doc []byte) {
		qe, _ := tcb.ParseQEIdentity(doc)
		info, err := tcb.ParseInfo(doc)
		if err != nil {
			return
		}
		if qe == nil {
			qe = &tcb.QEIdentity{Levels: []tcb.SVNLevel{{Status: tcb.UpToDate}}}
		}
		v := info.Evaluate(&tcb.Platform{TEETCBSVN: tcb.Components{9, 1}, PCESVN: 9}, qe, 9)
		if !v.Status.Known() {
			t.Fatalf("verdict is %+v", v)
		}
	})
}
