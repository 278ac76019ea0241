package idle

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
)

// smi is nvidia-smi's answer to --query --display=PIDS for a GPU, in the form of
// its documentation; a program is its id, type and name. It was not recorded
// from a machine with a GPU.
func smi(programs ...string) string {
	var b strings.Builder
	b.WriteString("\n==============NVSMI LOG==============\n\nTimestamp                                 : Thu Nov 26 12:00:00 2026\nDriver Version                            : 580.95.05\nAttached GPUs                             : 1\nGPU 00000000:3B:00.0\n    Processes")
	if len(programs) == 0 {
		b.WriteString("                             : None\n")
		return b.String()
	}
	b.WriteString("\n")
	for _, p := range programs {
		f := strings.SplitN(p, " ", 3)
		fmt.Fprintf(&b, "        GPU instance ID                   : N/A\n        Compute instance ID               : N/A\n        Process ID                        : %s\n            Type                          : %s\n            Name                          : %s\n            Used GPU Memory               : 4 MiB\n", f[0], f[1], f[2])
	}
	return b.String()
}

func TestWhatDrawsCountsAndTheDesktopDoesNot(t *testing.T) {
	const unknown = -1
	for _, c := range []struct {
		name, text string
		comm       map[string]string
		want       int
	}{
		{name: "nothing", text: smi()},
		{name: "a program that computes", text: smi("1 C /usr/bin/python3"), want: 1},
		{name: "a game", text: smi("1 G /home/me/.steam/game: the sequel"), want: 1},
		{name: "a game that computes, too", text: smi("1 C+G game"), want: 1},
		{name: "the desktop", text: smi("1 G /usr/lib/xorg/Xorg", "2 G /usr/bin/gnome-shell --mode=user", "3 G Xwayland")},
		{name: "a game on the desktop", text: smi("1 G /usr/lib/xorg/Xorg", "2 G game"), want: 1},
		{name: "a desktop whose name is not told", text: smi("1 G [Insufficient Permissions]"), comm: map[string]string{"1": "Xorg\n"}},
		{name: "a game whose name is not told", text: smi("1 G [Insufficient Permissions]"), comm: map[string]string{"1": "game\n"}, want: 1},
		{name: "a program of which only the id is told", text: smi("1 N/A N/A"), want: 1},
		{name: "an X server that computes is none", text: smi("1 C Xorg"), want: 1},
		{name: "an id that is none", text: smi("../../etc G Xorg")},
		{name: "two GPUs", text: smi("1 G Xorg") + smi("1 G Xorg", "2 G game", "3 C python"), want: 2},
		{name: "no GPU in the answer", text: "", want: unknown},
		{name: "one of two GPUs does not say", text: smi() + strings.Replace(smi(), "None", "N/A", 1), want: unknown},
		{name: "another form", text: "No devices were found\n", want: unknown},
	} {
		files := fstest.MapFS{"proc/x": {}}
		for pid, name := range c.comm {
			files["proc/"+pid+"/comm"] = &fstest.MapFile{Data: []byte(name)}
		}
		got := unknown
		if n := (&Sensors{FS: files}).count(c.text); n != nil {
			got = *n
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func FuzzCount(f *testing.F) {
	f.Add(smi("1 G Xorg", "2 C python"))
	f.Add("Processes : None\nType : G")
	f.Fuzz(func(t *testing.T, text string) {
		if n := (&Sensors{FS: fstest.MapFS{}}).count(text); n != nil && (*n < 0 || *n > strings.Count(text, "Process ID")) {
			t.Errorf("%d programs", *n)
		}
	})
}
