package dmverity

import (
	"strings"
	"testing"
)

func sample() Spec {
	s := Spec{Name: "root", Device: "/dev/vda", Salt: []byte{0xab, 0xcd}, DataBlocks: 100}
	s.Root[0], s.Root[31] = 0x12, 0x34
	return s
}

func TestTableIsTheKernelsFormat(t *testing.T) {
	const line = "1 /dev/vda /dev/vda 4096 4096 100 100 sha256 1200000000000000000000000000000000000000000000000000000000000034 abcd"
	s := sample()
	if got, err := s.Table(); err != nil || got != line+" 1 panic_on_corruption" {
		t.Errorf("got %q, error %v", got, err)
	}
	s.OnCorruption = Fail
	if got, err := s.Table(); err != nil || got != line {
		t.Errorf("got %q, error %v", got, err)
	}
	s.Device = "/dev/dm-12"
	if got, err := s.Table(); err != nil || got != strings.ReplaceAll(line, "/dev/vda", "/dev/dm-12") {
		t.Errorf("over a mapped device: got %q, error %v", got, err)
	}
	if got := s.Sectors(); got != 800 {
		t.Errorf("100 blocks are %d sectors, want 800", got)
	}
}

func TestTableRefusesWhatCouldChangeItsMeaning(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Spec)
	}{
		{"an empty name", func(s *Spec) { s.Name = "" }},
		{"a name with a space", func(s *Spec) { s.Name = "a b" }},
		{"a long name", func(s *Spec) { s.Name = strings.Repeat("a", 33) }},
		{"a device with a space", func(s *Spec) { s.Device = "/dev/vda 1" }},
		{"a device outside /dev", func(s *Spec) { s.Device = "/tmp/x" }},
		{"a device that climbs out of /dev", func(s *Spec) { s.Device = "/dev/../etc" }},
		{"a device with a dash", func(s *Spec) { s.Device = "/dev/vda-1" }},
		{"a mapped device without a number", func(s *Spec) { s.Device = "/dev/dm-" }},
		{"a mapped device by name", func(s *Spec) { s.Device = "/dev/dm-root" }},
		{"a mapped device with more behind", func(s *Spec) { s.Device = "/dev/dm-1 2" }},
		{"no salt", func(s *Spec) { s.Salt = nil }},
		{"a salt too long for the kernel", func(s *Spec) { s.Salt = make([]byte, 257) }},
		{"no blocks", func(s *Spec) { s.DataBlocks = 0 }},
		{"blocks whose sectors overflow", func(s *Spec) { s.DataBlocks = 1 << 61 }},
		{"an unknown corruption mode", func(s *Spec) { s.OnCorruption = 7 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sample()
			tt.edit(&s)
			if line, err := s.Table(); err == nil {
				t.Errorf("accepted as %q", line)
			}
		})
	}
}
