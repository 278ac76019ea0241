package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func goodReply(op string) *Reply {
	r := &Reply{Version: Version}
	switch op {
	case OpState:
		r.State = &State{Driver: "550.90.07", Environment: 2, CC: true, GPUs: []GPU{{UUID: "GPU-1", VBIOS: "96.00.9F.00.01", Fabric: true}}}
	case OpCollect:
		r.Devices = []Device{{Kind: KindGPU, UUID: "GPU-1", Report: []byte{1}, Chain: [][]byte{{2}}}}
	}
	return r
}

func TestRequestsRoundTripAndStrangersAreRefused(t *testing.T) {
	nonce := strings.Repeat("0f", 32)
	for _, r := range []*Request{{Version: 1, Op: OpState}, {Version: 1, Op: OpReady}, {Version: 1, Op: OpCollect, Nonce: nonce, Switches: true}} {
		b, err := Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseRequest(b); err != nil || *got != *r {
			t.Errorf("%s: got %+v, %v", b, got, err)
		}
	}
	for _, bad := range []string{
		``, `{}`, `{"version":2,"op":"state"}`, `{"version":1,"op":"reset"}`, `{"version":1,"op":"state","nonce":"` + nonce + `"}`,
		`{"version":1,"op":"collect"}`, `{"version":1,"op":"collect","nonce":"0f"}`, `{"version":1,"op":"collect","nonce":"` + nonce[1:] + `x"}`,
		`{"version":1,"op":"state","library":"/tmp/x.so"}`, `{"version":1,"op":"state","op":"ready"}`, `{"version":1,"op":"ready","switches":true}`,
		`{"version":1,"op":"state"}` + strings.Repeat(" ", MaxRequest),
	} {
		if r, err := ParseRequest([]byte(bad)); err == nil {
			t.Errorf("%.80s was read as %+v", bad, r)
		}
	}
}

func TestRepliesOutsideTheirLimitsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		op   string
		edit func(*Reply)
	}{
		"a version of another time":   {OpState, func(r *Reply) { r.Version = 2 }},
		"no state":                    {OpState, func(r *Reply) { r.State = nil }},
		"devices beside the state":    {OpState, func(r *Reply) { r.Devices = goodReply(OpCollect).Devices }},
		"a state where none is asked": {OpReady, func(r *Reply) { r.State = goodReply(OpState).State }},
		"a driver with a line break":  {OpState, func(r *Reply) { r.State.Driver = "5\n5" }},
		"a driver without a name":     {OpState, func(r *Reply) { r.State.Driver = "" }},
		"a VBIOS that is long":        {OpState, func(r *Reply) { r.State.GPUs[0].VBIOS = strings.Repeat("9", maxText+1) }},
		"too many GPUs":               {OpState, func(r *Reply) { r.State.GPUs = make([]GPU, MaxDevices+1) }},
		"too many devices":            {OpCollect, func(r *Reply) { r.Devices = make([]Device, MaxDevices+1) }},
		"a device of no kind":         {OpCollect, func(r *Reply) { r.Devices[0].Kind = "dpu" }},
		"a device without a name":     {OpCollect, func(r *Reply) { r.Devices[0].UUID = "" }},
		"no report":                   {OpCollect, func(r *Reply) { r.Devices[0].Report = nil }},
		"a report that is long":       {OpCollect, func(r *Reply) { r.Devices[0].Report = make([]byte, MaxReport+1) }},
		"no certificate":              {OpCollect, func(r *Reply) { r.Devices[0].Chain = nil }},
		"too many certificates":       {OpCollect, func(r *Reply) { r.Devices[0].Chain = make([][]byte, MaxChain+1) }},
		"an empty certificate":        {OpCollect, func(r *Reply) { r.Devices[0].Chain[0] = nil }},
		"an error beside an answer":   {OpState, func(r *Reply) { r.Error = &Error{Code: CodeOther} }},
		"an error that is long":       {OpReady, func(r *Reply) { r.Error = &Error{Text: strings.Repeat("x", maxMessage+1)} }},
	} {
		r := goodReply(c.op)
		c.edit(r)
		b, err := Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var e *Error
		if _, err := ParseReply(b, c.op); err == nil || errors.As(err, &e) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := ParseReply(bytes.Repeat([]byte(" "), MaxReply+1), OpState); err == nil {
		t.Error("an answer over the limit was read")
	}
	for _, op := range []string{OpState, OpCollect, OpReady} {
		b, err := Marshal(goodReply(op))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseReply(b, op); err != nil {
			t.Errorf("%s: a good answer: %v", op, err)
		}
		// Half an answer, as of a program that was killed, is none.
		if _, err := ParseReply(b[:len(b)/2], op); err == nil {
			t.Errorf("%s: half an answer was read", op)
		}
	}
}

func TestAnErrorComesBackAsItself(t *testing.T) {
	want := Error{Code: CodeLost, Call: "nvmlInit_v2", Result: 15, Text: "gone"}
	b, err := Marshal(&Reply{Version: Version, Error: &want})
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseReply(b, OpState)
	var got *Error
	if !errors.As(err, &got) || *got != want || fmt.Sprint(got) != "nvmlInit_v2 returned 15 (lost): gone" {
		t.Errorf("got %v", err)
	}
}

// FuzzParseReply: whatever the program writes, what is accepted is within its
// limits.
func FuzzParseReply(f *testing.F) {
	for _, op := range []string{OpState, OpCollect, OpReady} {
		b, err := Marshal(goodReply(op))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, op)
	}
	f.Fuzz(func(t *testing.T, b []byte, op string) {
		r, err := ParseReply(b, op)
		if err != nil {
			return
		}
		if r.State != nil && len(r.State.GPUs) > MaxDevices || len(r.Devices) > MaxDevices || r.Error != nil {
			t.Fatalf("accepted %+v", r)
		}
		for _, d := range r.Devices {
			if len(d.Report) > MaxReport || len(d.Chain) > MaxChain {
				t.Fatal("accepted a device over the limits")
			}
		}
	})
}
