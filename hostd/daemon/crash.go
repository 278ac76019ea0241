package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cocoon/hostd/keeper"
	"cocoon/hostd/machine"
	"cocoon/internal/durable"
	"cocoon/internal/jcs"
)

// Crash reports: a directory of the VM's, the newest few.
const (
	crashDir   = "crashes"
	maxCrashes = 8
	crashTail  = 16 << 10 // bytes of each log
	maxCrash   = 1 << 20
	crashTime  = "20060102T150405.000Z"
)

// Crash is what is kept of a VM that failed. Console and Guest are the guest's
// own word.
type Crash struct {
	VM      string            `json:"vm"`
	Ended   time.Time         `json:"ended"`
	Ran     float64           `json:"ran_seconds"`
	Reason  string            `json:"reason"`
	Faults  []machine.Problem `json:"faults"`
	Guest   machine.Guest     `json:"guest"`
	Console string            `json:"console"` // its end
	Log     string            `json:"log"`     // the end of the keeper's
}

// keepCrash writes the report of a VM that has failed, once each end.
func (d *Daemon) keepCrash(name string) error {
	dir := d.dir(name)
	s, err := machine.ReadState(dir)
	if err != nil || s.Phase != machine.Failed || s.Ended == nil {
		return nil // nothing has crashed, or nothing is known of it
	}
	path := filepath.Join(dir, crashDir, s.Ended.UTC().Format(crashTime)+".json")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	c := Crash{VM: name, Ended: *s.Ended, Ran: s.Ended.Sub(s.Started).Seconds(), Reason: s.Reason, Faults: s.Faults, Guest: s.Guest,
		Console: tail(filepath.Join(dir, machine.ConsoleFile)), Log: tail(filepath.Join(dir, keeper.LogFile))}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("writing crash report: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("writing crash report: %w", err)
	}
	if err := durable.Write(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing crash report: %w", err)
	}
	names, err := crashNames(dir)
	if err != nil {
		return err
	}
	for len(names) > maxCrashes {
		if err := os.Remove(filepath.Join(dir, crashDir, names[0])); err != nil {
			return fmt.Errorf("removing an old crash report: %w", err)
		}
		names = names[1:]
	}
	return nil
}

// crashNames returns the reports' names, the oldest first.
func crashNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, crashDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing crash reports: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Crashes returns what is kept of a VM's failures, the newest first.
func (d *Daemon) Crashes(name string) ([]Crash, error) {
	if _, err := d.Get(name); err != nil {
		return nil, err
	}
	// Without a supervisor, or before it came to it.
	if err := d.keepCrash(name); err != nil {
		return nil, err
	}
	names, err := crashNames(d.dir(name))
	if err != nil {
		return nil, err
	}
	out := []Crash{}
	for _, n := range slices.Backward(names) {
		b, err := os.ReadFile(filepath.Join(d.dir(name), crashDir, n))
		if err != nil {
			return nil, fmt.Errorf("reading crash report: %w", err)
		}
		var c Crash
		if err := jcs.Decode(b, maxCrash, &c); err != nil {
			continue // written by another version, or half: of no use to anyone
		}
		out = append(out, c)
	}
	return out, nil
}

// tail returns the end of a log as text.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > crashTail {
		if _, err := f.Seek(-crashTail, io.SeekEnd); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, crashTail))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(b), "?")
}
