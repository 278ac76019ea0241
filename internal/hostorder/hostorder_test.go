package hostorder

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"cocoon/internal/jcs"
)

func TestOrdersComeBackAsTheyWere(t *testing.T) {
	for _, o := range []Order{{Type: Drain, ID: "1", DeadlineMS: 60000}, {Type: Drain, ID: "now"}, {Type: Resume, ID: strings.Repeat("x", maxID)}} {
		b, err := o.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b)
		if err != nil || *got != o {
			t.Errorf("%+v came back as %+v, %v", o, got, err)
		}
	}
	if d := (&Order{DeadlineMS: 1500}).Deadline(); d != 1500*time.Millisecond {
		t.Errorf("deadline is %s", d)
	}
}

func TestWhatIsNoOrder(t *testing.T) {
	for name, in := range map[string]string{
		"no JSON":                  "drain",
		"another type":             `{"id":"1","type":"reboot"}`,
		"no identifier":            `{"type":"drain"}`,
		"a long identifier":        `{"id":"` + strings.Repeat("x", maxID+1) + `","type":"drain"}`,
		"an unprintable one":       `{"id":"a\nb","type":"drain"}`,
		"a key that nobody knows":  `{"id":"1","now":true,"type":"drain"}`,
		"a key twice":              `{"id":"1","id":"2","type":"drain"}`,
		"a negative deadline":      `{"deadline_ms":-1,"id":"1","type":"drain"}`,
		"a deadline beyond limits": `{"deadline_ms":3600001,"id":"1","type":"drain"}`,
		"a resume with a deadline": `{"deadline_ms":1,"id":"1","type":"resume"}`,
		"more after it":            `{"id":"1","type":"drain"}{}`,
	} {
		if o, err := Parse([]byte(in)); err == nil {
			t.Errorf("%s: read as %+v", name, o)
		}
	}
	if _, err := (&Order{Type: Drain}).Marshal(); err == nil {
		t.Error("an order without an identifier was written")
	}
}

func TestReadSkipsWhatIsNoOrder(t *testing.T) {
	in := `{"id":"1","type":"drain"}` + "\n\n" + "nonsense\n" + strings.Repeat("x", 3*MaxOrder) + "\n" +
		`{"id":"2","type":"resume"}` + "\r\n" + `{"id":"3","type":"resume"}`
	for how, r := range map[string]io.Reader{"at once": strings.NewReader(in), "byte by byte": iotest.OneByteReader(strings.NewReader(in))} {
		var ids []string
		var bad []error
		if err := Read(r, func(o *Order) { ids = append(ids, o.ID) }, func(err error) { bad = append(bad, err) }); err != nil {
			t.Fatal(err)
		}
		if strings.Join(ids, "") != "123" || len(bad) != 2 || !errors.Is(bad[1], jcs.ErrTooLarge) {
			t.Errorf("%s: orders %v, bad %v", how, ids, bad)
		}
	}
	if err := Read(iotest.ErrReader(io.ErrClosedPipe), nil, nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

// FuzzRead: every order that is read is one that can be written, and reads as
// itself.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"id":"1","type":"drain","deadline_ms":5}` + "\n"))
	f.Add([]byte("\n\n{}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		_ = Read(bytes.NewReader(in), func(o *Order) {
			b, err := o.Marshal()
			if err != nil {
				t.Fatalf("%+v was read and cannot be written: %v", o, err)
			}
			if again, err := Parse(b); err != nil || *again != *o {
				t.Fatalf("%+v came back as %+v, %v", o, again, err)
			}
		}, func(error) {})
	})
}
