package eventlog

import (
	"bytes"
	"crypto/sha512"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// logOf parses a real log by its file name.
func logOf(t testing.TB, name string) *Log {
	t.Helper()
	l, err := Parse(read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func bootLog(t testing.TB) *Log {
	t.Helper()
	b, err := os.ReadFile("testdata/direct-boot.eventlog.bin")
	if err != nil {
		t.Fatal(err)
	}
	l, err := ParseTPM(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func rules(vs []Violation) []string {
	var out []string
	for _, v := range vs {
		out = append(out, v.Rule)
	}
	return out
}

func TestRealLogsAreWellFormed(t *testing.T) {
	if vs := bootLog(t).Check(); vs != nil {
		t.Errorf("direct boot: %v", vs)
	}
	for name, want := range map[string][]string{
		"tpm-ubuntu2404-sevsnp.eventlog.bin":           nil,
		"ccel-gcp-cos113.ccel.bin":                     nil,
		"ccel-trustee-CCEL_AAEL_alibabacloud.ccel.bin": nil,
		"ccel-trustee-CCEL_data_gcp.ccel.bin":          nil,
		"ccel-trustee-CCEL_data_grub_gke.ccel.bin":     nil,
		"jsonlog-dstack-quote-report.json":             nil,
		"jsonlog-dstack-tdx-lite-getquote.json":        nil,
		"neg-cos113-dupe-separator.ccel.bin":           {RuleSeparatorDuplicate, RuleSeparatorMissing},
		"ccel-trustee-CCEL_data_grub.ccel.bin":         {RuleSeparatorDuplicate, RuleSeparatorMissing}, // the same form as the forged one
		"ccel-trustee-CCEL_data_ovmf.ccel.bin":         {RuleSeparatorDuplicate, RuleSeparatorMissing},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(want, rules(logOf(t, name).Check())); diff != "" {
				t.Errorf("broken rules (-want +got):\n%s", diff)
			}
		})
	}
}

// made returns an event whose digests are those of what was measured.
func made(l *Log, register uint32, typ Type, measured, data string) Event {
	e := Event{Register: register, Type: typ, Data: []byte(data)}
	for _, a := range l.Algorithms {
		h := newHash(a)
		h.Write([]byte(measured))
		e.Digests = append(e.Digests, Digest{a, h.Sum(nil)})
	}
	return e
}

// find returns the index of the first event that fits.
func find(t *testing.T, l *Log, register uint32, typ Type) int {
	t.Helper()
	i := slices.IndexFunc(l.Events, func(e Event) bool { return e.Register == register && e.Type == typ })
	if i < 0 {
		t.Fatalf("log has no %s in register %d", typ, register)
	}
	return i
}

// TestForgedBootsAreRefused changes a real log in the ways in which someone
// in the boot chain could, with digests that replay to a quote that he can
// get: only the log's form can tell.
func TestForgedBootsAreRefused(t *testing.T) {
	const sep, ones, fail = "\x00\x00\x00\x00", "\xff\xff\xff\xff", "\x01\x00\x00\x00"
	insert := func(l *Log, at int, e Event) { l.Events = slices.Insert(l.Events, at, e) }
	add := func(l *Log, e Event) { l.Events = append(l.Events, e) }
	beforeExit := func(t *testing.T, l *Log) int { return find(t, l, 5, EFIAction) }
	for name, c := range map[string]struct {
		change func(*testing.T, *Log)
		want   []string
	}{
		"unchanged": {func(*testing.T, *Log) {}, nil},
		"separators of ones": {func(t *testing.T, l *Log) {
			i := find(t, l, 3, Separator)
			l.Events[i] = made(l, 3, Separator, ones, ones)
		}, nil},
		"a second separator in PCR 7": {func(t *testing.T, l *Log) { insert(l, beforeExit(t, l), made(l, 7, Separator, sep, sep)) }, []string{RuleSeparatorDuplicate}},
		"a second separator of ones":  {func(t *testing.T, l *Log) { insert(l, beforeExit(t, l), made(l, 4, Separator, ones, ones)) }, []string{RuleSeparatorDuplicate}},
		"no separator in PCR 7":       {func(t *testing.T, l *Log) { i := find(t, l, 7, Separator); l.Events = slices.Delete(l.Events, i, i+1) }, []string{RuleSeparatorMissing}},
		"a separator in PCR 9":        {func(t *testing.T, l *Log) { insert(l, beforeExit(t, l), made(l, 9, Separator, sep, sep)) }, []string{RuleSeparatorRegister}},
		"an error separator": {func(t *testing.T, l *Log) {
			i := find(t, l, 0, Separator)
			l.Events[i] = made(l, 0, Separator, fail, fail)
		}, []string{RuleSeparatorValue}},
		"a separator of something": {func(t *testing.T, l *Log) {
			i := find(t, l, 7, Separator)
			l.Events[i] = made(l, 7, Separator, "kernel", sep)
		}, []string{RuleSeparatorValue}},
		"a separator that shows other": {func(t *testing.T, l *Log) {
			i := find(t, l, 7, Separator)
			l.Events[i] = made(l, 7, Separator, sep, ones)
		}, []string{RuleSeparatorValue}},
		"a separator without data": {func(t *testing.T, l *Log) {
			i := find(t, l, 7, Separator)
			l.Events[i] = made(l, 7, Separator, sep, "")
		}, []string{RuleSeparatorValue}},
		"one bank's separator differs": {func(t *testing.T, l *Log) {
			i := find(t, l, 7, Separator)
			e := made(l, 7, Separator, sep, sep)
			e.Digests[0] = made(l, 7, Separator, "else", "").Digests[0]
			l.Events[i] = e
		}, []string{RuleSeparatorValue}},
		"SecureBoot after the separator of PCR 7": {func(t *testing.T, l *Log) {
			i, j := find(t, l, 7, EFIVariableDriverConf), find(t, l, 7, Separator)
			e := l.Events[i]
			insert(l, j+1, e)
			l.Events = slices.Delete(l.Events, i, i+1)
		}, []string{RuleAfterSeparator}},
		"an option ROM after the separator of PCR 2": {func(t *testing.T, l *Log) { insert(l, beforeExit(t, l), made(l, 2, EFIBootDriver, "rom", "")) }, []string{RuleAfterSeparator}},
		"a firmware blob after the separator":        {func(t *testing.T, l *Log) { insert(l, beforeExit(t, l), made(l, 0, EFIFirmwareBlob, "fv", "")) }, []string{RuleAfterSeparator}},
		"a kernel in PCR 9":                          {func(t *testing.T, l *Log) { insert(l, beforeExit(t, l), made(l, 9, EFIBootApplication, "kernel", "")) }, []string{RuleRegister}},
		"a firmware version in PCR 7":                {func(t *testing.T, l *Log) { insert(l, 1, made(l, 7, SCRTMVersion, "v", "v")) }, []string{RuleRegister}},
		"a second kernel after boot services":        {func(t *testing.T, l *Log) { add(l, made(l, 4, EFIBootApplication, "kernel", "")) }, []string{RuleAfterExit}},
		"an authority after boot services":           {func(t *testing.T, l *Log) { add(l, made(l, 7, EFIVariableAuthority, "db", "db")) }, []string{RuleAfterExit}},
		"a second end of boot services":              {func(t *testing.T, l *Log) { add(l, l.Events[len(l.Events)-1]) }, []string{RuleAfterExit}},
		"an end that was not measured": {func(t *testing.T, l *Log) {
			l.Events[len(l.Events)-1] = made(l, 5, EFIAction, "else", actionExited)
		}, []string{RuleDigestOfAction}},
		"an action that is not its text": {func(t *testing.T, l *Log) {
			i := find(t, l, 4, EFIAction)
			l.Events[i].Data = []byte("Calling something else")
		}, []string{RuleDigestOfAction}},
		"an event hidden as no action":    {func(t *testing.T, l *Log) { insert(l, 3, made(l, 4, NoAction, "kernel", "SP800-155 Event\x00")) }, []string{RuleNoActionDigest}},
		"an event of the OS in PCR 11":    {func(t *testing.T, l *Log) { add(l, made(l, 11, IPL, "section", "")) }, nil},
		"a runtime event in a TPM's log":  {func(t *testing.T, l *Log) { add(l, made(l, 14, RuntimeEvent, "x", "")) }, []string{RuleRegister}},
		"everything out of order at once": {func(t *testing.T, l *Log) { slices.Reverse(l.Events) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := bootLog(t)
			c.change(t, l)
			got := rules(l.Check())
			if name == "everything out of order at once" {
				if !slices.Contains(got, RuleAfterExit) || !slices.Contains(got, RuleAfterSeparator) {
					t.Errorf("broken rules %v", got)
				}
				return
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("broken rules (-want +got):\n%s", diff)
			}
		})
	}
}

// TestForgedConfidentialBootsAreRefused does the same to a real CCEL.
func TestForgedConfidentialBootsAreRefused(t *testing.T) {
	const sep = "\x00\x00\x00\x00"
	for name, c := range map[string]struct {
		change func(*testing.T, *Log)
		want   []string
	}{
		"a second separator in RTMR1": {func(t *testing.T, l *Log) {
			l.Events = slices.Insert(l.Events, find(t, l, 2, EFIGPTEvent), made(l, 2, Separator, sep, sep))
		}, []string{RuleSeparatorDuplicate}},
		"a separator in RTMR2":                   {func(t *testing.T, l *Log) { l.Events = slices.Insert(l.Events, 3, made(l, 3, Separator, sep, sep)) }, []string{RuleSeparatorRegister}},
		"SecureBoot after the separator":         {func(t *testing.T, l *Log) { l.Events = slices.Insert(l.Events, 9, l.Events[2]) }, []string{RuleAfterSeparator}},
		"a firmware blob after the separator":    {func(t *testing.T, l *Log) { l.Events = slices.Insert(l.Events, 9, l.Events[1]) }, []string{RuleAfterSeparator}},
		"a kernel in RTMR2":                      {func(t *testing.T, l *Log) { l.Events[17].Register = 3 }, []string{RuleRegister}},
		"an authority in RTMR1":                  {func(t *testing.T, l *Log) { l.Events[20].Register = 2 }, []string{RuleRegister, RuleAfterSeparator}},
		"a kernel after boot services":           {func(t *testing.T, l *Log) { l.Events = append(l.Events, l.Events[17]) }, []string{RuleAfterExit}},
		"an event of the OS after boot services": {func(t *testing.T, l *Log) { l.Events = append(l.Events, made(l, 4, EventTag, "x", "")) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := logOf(t, "ccel-gcp-cos113.ccel.bin")
			c.change(t, l)
			if diff := cmp.Diff(c.want, rules(l.Check())); diff != "" {
				t.Errorf("broken rules (-want +got):\n%s", diff)
			}
		})
	}
}

// TestJSONLogsSayNothingElseThanTheirDigests refuses JSON logs that do not
// parse or that lie about a runtime event.
func TestJSONLogsSayNothingElseThanTheirDigests(t *testing.T) {
	sum := sha512.Sum384(runtimeInput("app-id", []byte{1}))
	good := []byte(`[{"imr":3,"event_type":134217729,"digest":"` + hexOf(sum[:]) + `","event":"app-id","event_payload":"01"}]`)
	if _, err := ParseJSON(good); err != nil {
		t.Fatal(err)
	}
	wrapped := append([]byte(`{"quote":"00","event_log":`), append(good, '}')...)
	l, err := ParseJSON(wrapped)
	if err != nil || len(l.Events) != 1 || l.RegisterName(int(l.Events[0].Register)) != "rtmr3" {
		t.Fatalf("a log within a document: %+v, %v", l, err)
	}
	for name, c := range map[string]struct{ old, new string }{
		"another name":                {`"app-id"`, `"app-di"`},
		"another payload":             {`"01"`, `"02"`},
		"register 4":                  {`"imr":3`, `"imr":4`},
		"an unknown key":              {`"imr"`, `"rim"`},
		"no digest of a firmware one": {`134217729`, `4`},
		"a duplicate key":             {`"imr":3`, `"imr":3,"imr":3`},
	} {
		t.Run(name, func(t *testing.T) {
			in := bytes.Replace(good, []byte(c.old), []byte(c.new), 1)
			if name == "no digest of a firmware one" {
				in = bytes.Replace(in, []byte(hexOf(sum[:])), nil, 1)
			}
			if l, err := ParseJSON(in); err == nil {
				t.Errorf("accepted: %+v", l)
			}
		})
	}
	for _, in := range []string{"", "[]", "{}", `{"event_log":"["}`, `{"event_log":7}`, "[1]", "[] x"} {
		if _, err := ParseJSON([]byte(in)); err == nil {
			t.Errorf("%q is accepted", in)
		}
	}
}
