package main

import (
	"errors"
	"testing"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"

	"cocoon/internal/fault"
)

// TestMachineQuote asks fakes of the kernel's interface, which stand in for a
// TDX guest, an SNP guest and a machine that is neither.
func TestMachineQuote(t *testing.T) {
	guest := func(provider string) func() (configfsi.Client, error) {
		return func() (configfsi.Client, error) {
			sub := faketsm.ReportV7(0)
			read := sub.ReadAttr
			sub.ReadAttr = func(e *faketsm.ReportEntry, attr string) ([]byte, error) {
				switch attr {
				case "provider":
					return []byte(provider + "\n"), nil
				case "outblob":
					return []byte("the quote"), nil
				}
				return read(e, attr)
			}
			return &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": sub}}, nil
		}
	}
	for _, tc := range []struct {
		name   string
		client func() (configfsi.Client, error)
		code   string
	}{
		{"a TDX guest", guest("tdx_guest"), ""},
		{"an SNP guest", guest("sev_guest"), "tcb.machine.provider"},
		{"no configfs", func() (configfsi.Client, error) { return nil, errors.New("no such directory") }, "tcb.machine.no_tee"},
		{"no report subsystem", func() (configfsi.Client, error) { return &faketsm.Client{}, nil }, "tcb.machine.no_quote"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q, err := machineQuote(tc.client)
			if tc.code == "" {
				if err != nil || string(q) != "the quote" {
					t.Errorf("got %q, %v", q, err)
				}
				return
			}
			if !fault.Has(err, tc.code) || fault.ExitCode(err) != fault.ExitNotReady {
				t.Errorf("got %v, want %s", err, tc.code)
			}
		})
	}
}
