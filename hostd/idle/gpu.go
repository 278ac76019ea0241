package idle

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/childpipe"
)

const smiTimeout = 2 * time.Second

// nvidiaDevices are what NVIDIA's driver has (Linux, ABI/testing/sysfs-bus-pci).
const nvidiaDevices = "sys/bus/pci/drivers/nvidia/*:*:*.*"

// displays are programs that draw a desktop and have every GPU of the driver
// open for as long as it is there, whether or not somebody uses it: presence
// says that. What is drawn on it, such as a game, counts by itself.
var displays = map[string]bool{
	"Xorg": true, "X": true, "Xwayland": true, "gnome-shell": true, "mutter": true, "kwin_x11": true, "kwin_wayland": true, "plasmashell": true,
	"sway": true, "weston": true, "Hyprland": true, "cinnamon": true, "marco": true, "xfwm4": true,
}

// gpu asks NVIDIA's driver, which sees the GPUs that the owner's programs see.
// A machine of which it has none, for a VM has them, has none of the owner's;
// one that it has and does not tell of, because it hangs, say, may be in use.
func (s *Sensors) gpu(ctx context.Context) (use, programs *int) {
	if of, err := fs.Glob(s.FS, nvidiaDevices); err == nil && len(of) == 0 {
		return new(int), new(int)
	}
	run := s.Run
	if run == nil {
		run = runProgram
	}
	ctx, cancel := context.WithTimeout(ctx, smiTimeout)
	defer cancel()
	if b, err := run(ctx, "nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"); err == nil {
		use = mostUsed(string(b))
	}
	// The query for tables knows programs that compute only.
	if b, err := run(ctx, "nvidia-smi", "--query", "--display=PIDS"); err == nil {
		programs = s.count(string(b))
	}
	return use, programs
}

// mostUsed returns the use of the GPU that is used most; nil: of one nothing is
// known.
func mostUsed(csv string) *int {
	most := -1
	for line := range strings.Lines(csv) {
		v, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return nil
		}
		most = max(most, v)
	}
	if most < 0 {
		return nil
	}
	return &most
}

// count returns how many programs have a GPU open, by what nvidia-smi says under
// "Processes" of each GPU: programs that compute (type C) and that draw (G),
// but those that draw a desktop. nil: of a GPU it does not say.
func (s *Sensors) count(text string) *int {
	type program struct{ pid, kind, name string }
	var all []program
	told := false
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case key == "Processes":
			told = true
			if ok && value != "" && value != "None" {
				return nil
			}
		case key == "Process ID":
			all = append(all, program{pid: value})
		case len(all) == 0:
		case key == "Type":
			all[len(all)-1].kind = value
		case key == "Name":
			all[len(all)-1].name = value
		}
	}
	if !told {
		return nil
	}
	n := 0
	for _, p := range all {
		if p.kind != "G" || !displays[s.nameOf(p.pid, p.name)] {
			n++
		}
	}
	return &n
}

// nameOf returns a program's name as the kernel has it (proc(5), comm), else as
// it was told.
func (s *Sensors) nameOf(pid, told string) string {
	if _, err := strconv.ParseUint(pid, 10, 31); err == nil {
		if b, err := fs.ReadFile(s.FS, "proc/"+pid+"/comm"); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	command, _, _ := strings.Cut(told, " ")
	return path.Base(command)
}

func runProgram(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	if err := childpipe.Run(cmd, &out); err != nil {
		return nil, fmt.Errorf("running %s: %w", name, err)
	}
	return out.Bytes(), nil
}
