package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

const (
	chunkA   = `data: {"choices":[{"delta":{"content":"a"}}]}` + "\n\n"
	chunkB   = `data: {"choices":[{"delta":{"content":"b"}}]}` + "\n\n"
	usageEnd = `data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}` + "\n\n"
	doneEnd  = "data: [DONE]\n\n"
)

func run(t *testing.T, m *meter, r io.Reader) (string, error, error) {
	t.Helper()
	var out bytes.Buffer
	err, sendErr := m.copy(r, func(b []byte) error { _, err := out.Write(b); return err })
	return out.String(), err, sendErr
}

func TestMeterPassesBytesUnchanged(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		keep           bool
	}{
		{"usage is taken out", chunkA + chunkB + usageEnd + doneEnd, chunkA + chunkB + doneEnd, false},
		{"usage stays where it was asked for", chunkA + usageEnd + doneEnd, chunkA + usageEnd + doneEnd, true},
		{"usage beside content stays", `data: {"choices":[{}],"usage":{"prompt_tokens":9,"completion_tokens":12}}` + "\n\n" + doneEnd, `data: {"choices":[{}],"usage":{"prompt_tokens":9,"completion_tokens":12}}` + "\n\n" + doneEnd, false},
		{"carriage returns", "data: [DONE]\r\n\r\n", "data: [DONE]\r\n\r\n", false},
		{"comments", ": ping\n\n" + doneEnd, ": ping\n\n" + doneEnd, false},
		{"fields other than data", "event: x\nid: 1\n" + doneEnd, "event: x\nid: 1\n" + doneEnd, false},
		{"blank lines between events", "\n\n" + doneEnd, doneEnd, false},
		{"an end without a blank line", "data: [DONE]", "data: [DONE]", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{"at once": strings.NewReader(c.in), "byte by byte": iotest.OneByteReader(strings.NewReader(c.in))} {
				m := &meter{keepUsage: c.keep, hasUsage: true}
				got, err, sendErr := run(t, m, r)
				if err != nil || sendErr != nil || !m.done {
					t.Fatalf("%s: %v, %v, done %v", how, err, sendErr, m.done)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", how, diff)
				}
			}
		})
	}
}

func TestMeterBillsFromUsageOnly(t *testing.T) {
	m := &meter{}
	if _, err, _ := run(t, m, strings.NewReader(chunkA+usageEnd+doneEnd)); err != nil {
		t.Fatal(err)
	}
	want := Usage{Prompt: 9, Cached: 4, Completion: 12, Reasoning: 2}
	if m.billed() != want {
		t.Errorf("billed %+v, want %+v", m.billed(), want)
	}
}

// TestUsageIsFoundHoweverItIsWritten: the short way past most events must not
// pass one that has usage.
func TestUsageIsFoundHoweverItIsWritten(t *testing.T) {
	for _, in := range []string{
		`{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":5}}`,
		`{"choices":[{"delta":{"content":"x"}}],"\u0075sage":{"prompt_tokens":1,"completion_tokens":5}}`,
		`{"choices":[{"delta":{"content":"\"usage\""}}],"usage" : {"prompt_tokens":1,"completion_tokens":5}}`,
	} {
		m := &meter{}
		if _, _, err := m.see([]byte("data: " + in + "\n\n")); err != nil || m.usage != (Usage{Prompt: 1, Completion: 5}) {
			t.Errorf("%s: %+v, %v", in, m.usage, err)
		}
	}
	for in, want := range map[string]bool{
		`{"choices":[{"delta":{"content":"\"usage\""}}]}`: true,
		`{"choices":[]}`:          false,
		`{"model":"choices"}`:     false,
		`{"choices": [ {} ] }`:    true,
		`{"choices":[{}],"x":[]}`: true,
	} {
		if _, content, err := new(meter).see([]byte("data: " + in + "\n\n")); err != nil || content != want {
			t.Errorf("%s: content %v, %v", in, content, err)
		}
	}
	if _, _, err := new(meter).see([]byte(`data: {"choices":[{}]` + "\n\n")); err == nil {
		t.Error("an event that is cut short passed")
	}
}

func TestTheLargestUsageWins(t *testing.T) {
	m := &meter{}
	u := func(p, c string) string {
		return `data: {"choices":[{}],"usage":{"prompt_tokens":` + p + `,"completion_tokens":` + c + `}}` + "\n\n"
	}
	if _, err, _ := run(t, m, strings.NewReader(u("9", "1")+u("9", "7")+u("9", "3")+doneEnd)); err != nil {
		t.Fatal(err)
	}
	if m.billed() != (Usage{Prompt: 9, Completion: 7}) {
		t.Errorf("billed %+v", m.billed())
	}
}

func TestAStreamWithoutUsageBillsDeliveredEvents(t *testing.T) {
	m := &meter{}
	_, err, _ := run(t, m, io.MultiReader(strings.NewReader(chunkA+chunkB), iotest.ErrReader(io.ErrUnexpectedEOF)))
	if !errors.Is(err, io.ErrUnexpectedEOF) || m.done {
		t.Fatalf("got %v, done %v", err, m.done)
	}
	if m.billed() != (Usage{Completion: 2}) {
		t.Errorf("billed %+v, want 2 tokens of the answer", m.billed())
	}
}

func TestAClientThatHangsUpIsStillMetered(t *testing.T) {
	m := &meter{}
	hungUp := errors.New("hung up")
	n := 0
	err, sendErr := m.copy(iotest.OneByteReader(strings.NewReader(chunkA+chunkB+usageEnd+doneEnd)), func([]byte) error {
		if n++; n > 1 {
			return hungUp
		}
		return nil
	})
	if err != nil || !errors.Is(sendErr, hungUp) || n != 2 {
		t.Fatalf("got %v, %v after %d events", err, sendErr, n)
	}
	if m.billed().Completion != 12 || m.delivered != 1 {
		t.Errorf("billed %+v, delivered %d", m.billed(), m.delivered)
	}
}

func TestAnEngineThatTalksNonsenseIsCutOff(t *testing.T) {
	for name, in := range map[string]string{
		"no JSON":                    "data: {\n\n",
		"more cached than prompted":  `data: {"choices":[],"usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}}` + "\n\n",
		"more reasoning than answer": `data: {"choices":[],"usage":{"completion_tokens":1,"reasoning_tokens":2}}` + "\n\n",
		"negative tokens":            `data: {"choices":[],"usage":{"completion_tokens":-1}}` + "\n\n",
		"too many tokens":            `data: {"choices":[],"usage":{"completion_tokens":4294967297}}` + "\n\n",
		"an endless event":           "data: " + strings.Repeat("x", maxEvent),
		"an endless line":            strings.Repeat("x", 3*maxEvent),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err, _ := run(t, &meter{}, strings.NewReader(in)); err == nil {
				t.Error("it passed")
			}
		})
	}
}

func TestOnlyAnotherWordInAStringIsSeenWithoutReading(t *testing.T) {
	const good = `{"choices":[{"delta":{"content":" word"}}],"n":1}`
	for data, want := range map[string]bool{
		good: true,
		`{"choices":[{"delta":{"content":" another"}}],"n":1}`:         true,
		`{"choices":[{"delta":{"content":""}}],"n":1}`:                 true,
		`{"choices":[{"delta":{"content":" w\n"}}],"n":1}`:             false,
		`{"choices":[{"delta":{"content":" w"d"}}],"n":1}`:             false,
		"{\"choices\":[{\"delta\":{\"content\":\" w\x01\"}}],\"n\":1}": false,
		`{"choices":[{"delta":{"content":" word"}}],"n":x}`:            false,
		`{"choices":[{"delta":{"content":" word"}}],"n":1`:             false,
		`{"choices":[{"delta":{"content":" word"}}],"n":1}}`:           false,
		``: false,
	} {
		if got := sameButText([]byte(good), []byte(data)); got != want {
			t.Errorf("%s: %v, want %v", data, got, want)
		}
	}
	if escaped := `{"a":"\"b"}`; sameButText([]byte(escaped), []byte(`{"a":"\"c"}`)) {
		t.Error("a string behind a backslash is taken for known")
	}
	if sameButText(nil, []byte(good)) {
		t.Error("the first event is taken for known")
	}
}

// FuzzSameButText: what is said to be JSON is, whatever came before it.
func FuzzSameButText(f *testing.F) {
	f.Add([]byte(`{"choices":[{"delta":{"content":" word"}}]}`), []byte(`{"choices":[{"delta":{"content":" other"}}]}`))
	f.Add([]byte(`{"a":"x","b":"y"}`), []byte(`{"a":"x","b":"\"}`))
	f.Add([]byte(`["a","b"]`), []byte(`["a"x,"b"]`))
	f.Fuzz(func(t *testing.T, good, data []byte) {
		if json.Valid(good) && sameButText(good, data) && !json.Valid(data) {
			t.Fatalf("%q is taken for JSON, after %q", data, good)
		}
	})
}

// FuzzMeter: what goes out is made of whole events that came in, in order,
// and bills are possible.
func FuzzMeter(f *testing.F) {
	f.Add([]byte(chunkA+usageEnd+doneEnd), false)
	f.Add([]byte(": c\r\n\r\ndata: [DONE]\r\n\r\n"), true)
	f.Fuzz(func(t *testing.T, in []byte, keep bool) {
		m := &meter{keepUsage: keep}
		var out bytes.Buffer
		rest := in
		// Byte by byte: each event is sent alone.
		_, sendErr := m.copy(iotest.OneByteReader(bytes.NewReader(in)), func(b []byte) error {
			out.Write(b)
			if own, ok := bytes.CutPrefix(b, []byte(notBilled)); ok && m.said {
				b = own // the meter's own word is before it
			}
			i := bytes.Index(rest, b)
			if i < 0 {
				t.Fatalf("sent %q, which the engine did not say next", b)
			}
			rest = rest[i+len(b):]
			return nil
		})
		if sendErr != nil {
			t.Fatal(sendErr)
		}
		var atOnce bytes.Buffer
		whole := &meter{keepUsage: keep}
		if _, err := whole.copy(bytes.NewReader(in), func(b []byte) error { atOnce.Write(b); return nil }); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(atOnce.Bytes(), out.Bytes()) {
			t.Fatalf("at once %q is sent, byte by byte %q", atOnce.Bytes(), out.Bytes())
		}
		if whole.billed() != m.billed() || whole.delivered != m.delivered {
			t.Fatalf("at once %+v is billed, byte by byte %+v", whole.billed(), m.billed())
		}
		if u := m.billed(); u.Cached > u.Prompt && m.usage == u || u.Prompt > maxTokens || u.Completion > maxTokens {
			t.Fatalf("billed %+v", u)
		}
		if keep && m.done && !bytes.Contains(out.Bytes(), []byte("[DONE]")) {
			t.Fatal("the end was seen and not sent")
		}
	})
}
