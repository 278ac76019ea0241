package bootargs

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample() Root {
	r := Root{Salt: []byte{1, 2, 3}, Blocks: 18613}
	for i := range r.Hash {
		r.Hash[i] = byte(i)
	}
	return r
}

const text = "console=ttyS0 quiet panic=-1 oops=panic lockdown=confidentiality module.sig_enforce=1 debugfs=off vsyscall=none slab_nomerge cryptomgr.notests=1 no_timer_check cocoon.root=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f cocoon.salt=010203 cocoon.blocks=18613"

func TestStringIsTheMeasuredText(t *testing.T) {
	if got := sample().String(); got != text {
		t.Errorf("got  %s\nwant %s", got, text)
	}
}

func TestParseReadsWhatTheFirmwareAddsTo(t *testing.T) {
	got, err := Parse("initrd=initrd " + text + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Error(diff)
	}
}

func TestADebugImageSaysSo(t *testing.T) {
	r := sample()
	r.Debug = true
	got, err := Parse(r.String())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(r.String(), "quiet") || !strings.Contains(r.String(), " loglevel=7 ") {
		t.Errorf("it does not talk more: %s", r)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ name, old, new string }{
		{"a missing root", "cocoon.root=", "root="},
		{"a missing salt", " cocoon.salt=010203", ""},
		{"missing blocks", "cocoon.blocks=18613", ""},
		{"a root given twice", "quiet", "cocoon.root=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"},
		{"an unknown parameter of ours", "quiet", "cocoon.shell"},
		{"a debug mark with a value", "quiet", "cocoon.debug=0"},
		{"a debug mark twice", "quiet", "cocoon.debug cocoon.debug"},
		{"a short root", "1e1f", "1e"},
		{"a long root", "1e1f", "1e1f20"},
		{"an upper-case root", "0a0b", "0A0B"},
		{"a root that is no hex", "0001", "zz01"},
		{"an empty salt", "salt=010203", "salt="},
		{"a salt of half a byte", "salt=010203", "salt=01020"},
		{"a salt too long for the kernel", "salt=010203", "salt=" + strings.Repeat("00", 257)},
		{"no blocks", "blocks=18613", "blocks=0"},
		{"blocks with a sign", "blocks=18613", "blocks=+18613"},
		{"blocks with a leading zero", "blocks=18613", "blocks=018613"},
		{"blocks in hex", "blocks=18613", "blocks=0x10"},
		{"more blocks than a device may have", "blocks=18613", "blocks=4294967297"},
		{"blocks beyond 64 bits", "blocks=18613", "blocks=99999999999999999999"},
		{"a line over the limit", "quiet", strings.Repeat("x", MaxLength)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			line := strings.Replace(text, tt.old, tt.new, 1)
			if line == text {
				t.Fatal("the case changes nothing")
			}
			if r, err := Parse(line); err == nil {
				t.Errorf("accepted as %+v", r)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(text)
	f.Add("initrd=initrd " + text)
	f.Add("cocoon.root= cocoon.salt cocoon.blocks=1")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := Parse(line)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil {
			if len(r.String()) > MaxLength {
				return // the given line had no room for the kernel's own words
			}
			t.Fatalf("own text is refused: %v", err)
		}
		if again.Hash != r.Hash || again.Blocks != r.Blocks || !bytes.Equal(again.Salt, r.Salt) {
			t.Fatalf("read %+v, then %+v", r, again)
		}
	})
}
