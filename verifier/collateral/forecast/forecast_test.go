package forecast

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/bundle"
	"cocoon/verifier/quote"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
)

// rig has a quote and standard collateral under which it is UpToDate.
type rig struct {
	pki *tdxtest.PKI
	in  Input
}

func newRig(t *testing.T) *rig {
	t.Helper()
	pki, err := tdxtest.New("forecast")
	if err != nil {
		t.Fatal(err)
	}
	c := tdxtest.StatusTDX(tcb.UpToDate)
	q, _, err := pki.Make(&c)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{pki: pki, in: Input{Quote: q, Roots: pki.Roots(), Now: tdxtest.Now}}
	r.in.Collateral = r.set(t, func(*tdxtest.Collateral) {})
	return r
}

func (r *rig) set(t *testing.T, change func(*tdxtest.Collateral)) *collateral.Set {
	t.Helper()
	c := tdxtest.DefaultCollateral(quote.TEETDX)
	change(&c)
	raw, err := r.pki.Collateral(&c)
	if err != nil {
		t.Fatal(err)
	}
	set, err := collateral.Open(raw, r.pki.Roots())
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestAnUpToDatePlatformNeedsNothing(t *testing.T) {
	r := newRig(t)
	rep, err := Make(&r.in)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Current.Status != tcb.UpToDate || rep.Next != nil || len(rep.Updates) != 0 {
		t.Errorf("report is %+v", rep)
	}
	for _, p := range rep.Parts {
		if p.Name == collateral.PartTCBInfo && p.Days != 29 {
			t.Errorf("TCB info lasts %d days, want 29", p.Days)
		}
	}
}

func TestTheEarlyEvaluationSaysWhatToUpdate(t *testing.T) {
	r := newRig(t)
	r.in.Early = r.set(t, func(c *tdxtest.Collateral) {
		old := c.Info.Levels[0]
		better := old
		better.SGX[0], better.TDX[2], better.PCESVN = old.SGX[0]+2, old.TDX[2]+1, old.PCESVN+1
		old.Status = tcb.OutOfDate
		c.Info.Levels = append([]tcb.Level{better, old}, c.Info.Levels[1:]...)
		m := &c.Info.Modules[0]
		m.Levels = append([]tcb.SVNLevel{{ISVSVN: 7, Status: tcb.UpToDate, Date: m.Levels[0].Date}}, m.Levels...)
		m.Levels[1].Status = tcb.OutOfDate
		c.Info.Evaluation, c.QE.Evaluation = 21, 21
	})
	rep, err := Make(&r.in)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Current.Status != tcb.UpToDate || rep.Next == nil || rep.Next.Status != tcb.OutOfDate || rep.Next.Evaluation != 21 || !rep.Later {
		t.Fatalf("report is %+v", rep)
	}
	var got []string
	for _, u := range rep.Updates {
		got = append(got, u.Component)
		if u.Evaluation != 21 || u.Have >= u.Need || u.Remedy == "" {
			t.Errorf("update is %+v", u)
		}
	}
	if want := []string{"sgx01", "pce", "tdx03", "tdx_module"}; !slices.Equal(got, want) {
		t.Errorf("updates are %v, want %v", got, want)
	}
}

func TestAnEarlyChannelWithoutNewsIsNotLater(t *testing.T) {
	r := newRig(t)
	r.in.Early = r.in.Collateral
	rep, err := Make(&r.in)
	if err != nil || rep.Later || rep.Next == nil {
		t.Errorf("report is %+v, %v", rep, err)
	}
}

func TestExpiredPartsAreReported(t *testing.T) {
	r := newRig(t)
	r.in.Now = tdxtest.Now.AddDate(0, 0, 31)
	rep, err := Make(&r.in)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range rep.Parts {
		if p.Name == collateral.PartTCBInfo && p.Days != -2 {
			t.Errorf("TCB info lasts %d days, want -2", p.Days)
		}
	}
}

func TestAForgedQuoteHasNoForecast(t *testing.T) {
	r := newRig(t)
	r.in.Quote = append([]byte(nil), r.in.Quote...)
	r.in.Quote[200] ^= 1
	if _, err := Make(&r.in); fault.ExitCode(err) != fault.ExitRefused {
		t.Errorf("got %v", err)
	}
	r.in.Quote = r.in.Quote[:100]
	if _, err := Make(&r.in); fault.ExitCode(err) != fault.ExitParse {
		t.Errorf("got %v", err)
	}
}

// TestARealPlatformUnderTwoEvaluations takes a platform that was UpToDate
// under evaluation 19 and is OutOfDate under 21, and has Intel's names for
// what is missing.
func TestARealPlatformUnderTwoEvaluations(t *testing.T) {
	dir := filepath.Join(vectors.Dir(t), "tdx")
	name := "tdx-v4-attested-tls-00806f050000-85ef"
	q, err := os.ReadFile(filepath.Join(dir, name+".quote.bin"))
	if err != nil {
		t.Fatal(err)
	}
	open := func(e string) *collateral.Set {
		raw, err := bundle.Read(filepath.Join(dir, name+"."+e+".collateral.json"))
		if err != nil {
			t.Fatal(err)
		}
		set, err := collateral.Open(raw, nil)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	rep, err := Make(&Input{Quote: q, Now: time.Unix(1782900000, 0), Collateral: open("e19"), Early: open("e21")})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Current.Status != tcb.UpToDate || rep.Next.Status != tcb.OutOfDate || !rep.Later {
		t.Errorf("now %s, next %s", rep.Current.Status, rep.Next.Status)
	}
	if len(rep.Updates) == 0 {
		t.Fatal("no updates")
	}
	for _, u := range rep.Updates {
		t.Logf("%s (%s): has %d, needs %d: %s", u.Component, u.What, u.Have, u.Need, u.Remedy)
	}
	if !strings.Contains(rep.Updates[0].What, "Microcode") {
		t.Errorf("first update is %+v", rep.Updates[0])
	}
}
